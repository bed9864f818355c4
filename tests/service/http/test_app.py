"""The application as a whole: second port, other origins, a proxy's prefix, pages, unknown failures."""

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.errors import error_types
from service.http.site.pages import errors_page
from tests.service.running import Running, running, tiny_settings

ORIGIN = "https://birds.example"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server with a second port, an allowed origin and a prefix."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "admin").write_text("root-key\n")
    settings = tiny_settings(
        tmp_path_factory.mktemp("models"),
        admin_port=1,
        admin_key_file=folder / "admin",
        cors_origins=f"{ORIGIN}, https://other.example",
        root_path="/birds",
    )
    with running(settings) as server:
        yield server


def test_second_port(public: Running) -> None:
    """Metrics and administration are on their own port and nowhere else."""
    with public.client() as main, httpx.Client(base_url=f"http://127.0.0.1:{public.admin_port}") as admin:
        reload = main.post("/admin/reload", headers={"X-API-Key": "root-key"})
        assert [404, 404] == [main.get("/metrics").status_code, reload.status_code]
        assert 200 == admin.get("/metrics").status_code
        assert 200 == admin.get("/readyz").status_code
        assert [401, 200] == [
            admin.post("/admin/reload", headers=headers).status_code for headers in ({}, {"X-API-Key": "root-key"})
        ]
        assert [404, 404] == [admin.get("/models").status_code, admin.post("/classify").status_code]
        assert 'route="/admin/reload"' in admin.get("/metrics").text


@pytest.mark.parametrize("prefix", ["", "/birds"])
def test_prefix_of_a_proxy(public: Running, red_png: bytes, prefix: str) -> None:
    """Behind a proxy every address works, whether it strips its prefix or not, and links have the prefix."""
    with public.client() as client:
        for address in ("/livez", "/models", "/docs", "/docs/docs.js", "/errors", "/v2/models/tiny", "/openapi.json"):
            assert (address, 200) == (address, client.get(prefix + address).status_code)
        answer = client.post(f"{prefix}/classify", content=red_png, headers={"Content-Type": "image/png"})
        assert 200 == answer.status_code
        problem = client.post(f"{prefix}/classify", content=b"junk", headers={"Content-Type": "image/png"}).json()
        assert problem["type"].startswith("/birds/errors#")
        assert [{"url": "/birds"}] == client.get(f"{prefix}/openapi.json").json()["servers"]


def test_other_origins(public: Running, red_png: bytes) -> None:
    """A named origin may send requests and read answers and problems; another may not."""
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"}
    with public.client() as client:
        allowed = client.options("/classify", headers={"Origin": ORIGIN, **asking})
        assert (200, ORIGIN) == (allowed.status_code, allowed.headers["access-control-allow-origin"])
        refused = client.options("/classify", headers={"Origin": "https://evil.example", **asking})
        assert "access-control-allow-origin" not in refused.headers
        assert (400, "malformed_request") == (refused.status_code, refused.json()["code"])
        assert "application/problem+json" == refused.headers["content-type"]
        strange = client.options(
            "/classify", headers={"Origin": ORIGIN, **asking, "Access-Control-Request-Headers": "X"}
        )
        assert (400, ORIGIN) == (strange.status_code, strange.headers["access-control-allow-origin"])
        assert strange.json()["detail"].endswith("headers.")
        length = {**asking, "Access-Control-Request-Headers": "inference-header-content-length"}
        assert 200 == client.options("/v2/models/tiny/infer", headers={"Origin": ORIGIN, **length}).status_code
        for content in (red_png, b"junk", b""):
            answer = client.post("/classify", content=content, headers={"Origin": ORIGIN})
            assert ORIGIN == answer.headers["access-control-allow-origin"]
            exposed = answer.headers["access-control-expose-headers"]
            assert "X-Request-Id" in exposed
            assert "Inference-Header-Content-Length" in exposed
            document = client.get("/openapi.json").json()["paths"]["/explain"]["post"]["responses"]["200"]
            assert set() == set(document["headers"]) - {"Vary"} - set(exposed.split(", "))
        invalid = client.post("/classify", content=red_png, headers={"Origin": ORIGIN, "X-Request-Timeout-Ms": "soon"})
        assert (422, ORIGIN) == (invalid.status_code, invalid.headers["access-control-allow-origin"])


def test_no_other_origin_by_default(client: httpx.Client) -> None:
    """Without named origins no answer has a header for other origins."""
    answer = client.get("/livez", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    asking = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert 405 == client.options("/classify", headers=asking).status_code


def test_pages_are_guarded(client: httpx.Client) -> None:
    """Pages allow no inline script and no frame, and are revalidated by their content."""
    for address in ("/", "/errors", "/docs"):
        answer = client.get(address).raise_for_status()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; " in policy
        assert "frame-ancestors 'none'" in policy
        assert ("nosniff", "no-cache") == (answer.headers["x-content-type-options"], answer.headers["cache-control"])
        again = client.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (304, b"") == (again.status_code, again.content)
        known = [("If-None-Match", '"another"'), ("If-None-Match", f"W/{answer.headers['etag']}")]
        assert 304 == client.get(address, headers=known).status_code
        assert 405 == client.post(address).status_code


def test_errors_page_names_every_code(client: httpx.Client) -> None:
    """Every code has its anchor on the page that problems link to."""
    page = client.get("/errors").raise_for_status().text
    assert errors_page() == page
    assert "`" not in page
    for kind in error_types():
        assert f'id="{kind.code}"' in page


def test_unknown_failures_are_logged_and_not_echoed(
    tmp_path: Path, red_png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the service is logged with its traceback; the client gets only an id."""
    with running(tiny_settings(tmp_path)) as server, server.client() as client:

        def broken() -> list[object]:
            raise RuntimeError("secret /etc/path")

        server.runtime.models.served = broken  # type: ignore[assignment,method-assign]
        with caplog.at_level(logging.ERROR, "fieldmark.service"):
            answer = client.get("/models")
        assert (500, "internal_error") == (answer.status_code, answer.json()["code"])
        assert "secret" not in answer.text
        (record,) = caplog.records
        assert record.exc_info is not None
        assert "secret /etc/path" in str(record.exc_info[1])
        assert answer.json()["request_id"] == record.fields["request_id"]  # type: ignore[attr-defined]


def test_head_wherever_get_is(client: httpx.Client) -> None:
    """HEAD has GET's status and fields, and no body; 405 where there is no GET."""
    found = client.get("/openapi.json").json()["paths"]
    reads = [path.replace("{name}", "tiny").replace("{version}", "1") for path in found if "get" in found[path]]
    assert len(reads) > 8
    for path in [*reads, "/", "/docs", "/errors", "/docs/docs.js", "/docs/nothing", "/openapi.json"]:
        got, head = client.get(path), client.head(path)
        assert (path, got.status_code, b"") == (path, head.status_code, head.content)
        same = [name for name in got.headers if name not in ("date", "x-request-id", "server-timing")]
        if path not in ("/metrics", "/docs/nothing"):
            assert [got.headers[name] for name in same] == [head.headers.get(name) for name in same], path
    assert not [path for path in found if "head" in found[path]]
    refused = client.head("/classify")
    assert (405, "POST") == (refused.status_code, refused.headers["allow"])
    assert "GET, HEAD" == client.post("/livez").headers["allow"]


def test_the_document_has_the_real_limits(tmp_path: Path) -> None:
    """The document has the limits of this server, not the defaults."""
    settings = tiny_settings(tmp_path, max_files=3, max_upload_bytes=2 * 1024 * 1024, max_pixels=1_000_000)
    with running(settings) as server, server.client() as client:
        found = client.get("/openapi.json").json()["paths"]
        for path in ("/classify", "/explain"):
            body = found[path]["post"]["requestBody"]
            file = body["content"]["multipart/form-data"]["schema"]["properties"]["file"]
            assert 3 == file["maxItems"]
            assert "up to 3 images and 2 MiB in all, 1,000,000 pixels an image" in body["description"]
        refused = client.post("/classify", content=bytes(3 * 1024 * 1024))
        assert "A request may have up to 2 MiB." == refused.json()["detail"]
