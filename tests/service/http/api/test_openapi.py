"""The OpenAPI document: valid, offline, its examples match their schema; every endpoint behaves as documented."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from PIL import Image
from pydantic import TypeAdapter
from schemathesis.config import SchemathesisConfig

from service.http.api import schemas
from service.http.api.openapi import IMAGE_TYPES
from service.http.app import create_app
from service.inference.runtime import Runtime
from service.settings import Settings
from tests.service.conftest import encoded
from tests.service.running import Running, running, tiny_settings

OPERATIONS = {
    "/classify", "/explain", "/feedback", "/models", "/livez", "/readyz", "/metrics", "/admin/reload",
    "/v2", "/v2/health/live", "/v2/health/ready",
    "/v2/models/{model}", "/v2/models/{model}/ready", "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}", "/v2/models/{model}/versions/{version}/ready",
    "/v2/models/{model}/versions/{version}/infer",
}  # fmt: skip


# Bodies: real and broken images of every type, so that each endpoint both answers and refuses.

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/gif": "GIF", "image/bmp": "BMP"}
FORMATS |= {"image/tiff": "TIFF", "image/avif": "AVIF"}


def files_of(media_type: str) -> st.SearchStrategy[bytes]:
    """Return real images of a type, the same cut or with bytes changed, and noise."""
    image_format = FORMATS.get(media_type, "PNG")
    real = [encoded("teal", size, image_format) for size in ((1, 1), (9, 40), (64, 48))]
    cut = st.tuples(st.sampled_from(real), st.integers(1, 60)).map(lambda pair: pair[0][: -pair[1]])
    changed = st.tuples(st.sampled_from(real), st.integers(0, 59), st.binary(min_size=1, max_size=8)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
    )
    return st.sampled_from(real) | cut | changed | st.binary(max_size=100)


for one in IMAGE_TYPES:
    schemathesis.openapi.media_type(one, files_of(one))
schemathesis.openapi.format("binary", files_of("image/png"))

CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            # A deadline of one millisecond is valid and cannot be met.
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "504"]},
            # A body that is an image by its type may be broken, and a label or model may be unknown.
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "400", "403", "404", "413", "415", "422", "429", "504"]
            },
            # More images than a request may hold are refused as too large.
            "negative_data_rejection": {
                "expected-statuses": ["400", "401", "403", "404", "405", "406", "413", "415", "422", "5xx"]
            },
        }
    }
)


OPTIONS = Settings(device="cpu")
DOCUMENT = create_app(Runtime(OPTIONS)).openapi()
schema = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_endpoint_matches_the_document(marked_server: Running, case: schemathesis.Case) -> None:
    """Whatever is sent, the document describes the answer and its shape."""
    case.call_and_validate(base_url=marked_server.url)


@pytest.fixture(scope="module")
def document(tiny_server: Running) -> dict[str, Any]:
    """Return the document."""
    with tiny_server.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").raise_for_status().json()
    return found


def test_document_is_valid(document: dict[str, Any]) -> None:
    """The document is valid OpenAPI 3.1 and leaves no address out."""
    validate(document)
    assert OPERATIONS == set(document["paths"])
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def every_answer(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and entry of every answer of every operation."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                yield f"{method} {path} {status}", answer


def test_every_answer_is_described(document: dict[str, Any]) -> None:
    """Every answer has content, its common headers, and, if a problem, one example a code."""
    problem = TypeAdapter(schemas.Problem)
    for name, answer in every_answer(document):
        assert answer["content"], name
        assert {"X-Request-Id", "Server-Timing"} <= set(answer["headers"]), name
        if name[-3] in "45":
            examples = answer["content"]["application/problem+json"]["examples"]
            assert examples, name
            for code, example in examples.items():
                assert code == problem.validate_python(example["value"]).code


def test_models_have_examples(document: dict[str, Any]) -> None:
    """Every plain member of every answer has an example."""
    for name in ("Score", "ModelId", "Classification", "ClassMap", "Problem", "ModelInfo", "TensorOut"):
        for member, entry in document["components"]["schemas"][name]["properties"].items():
            is_plain = entry.get("type") in {"string", "number", "integer"}
            assert not is_plain or "examples" in entry or "const" in entry, f"{name}.{member}"


def test_examples_of_requests_are_answered(client: httpx.Client, document: dict[str, Any]) -> None:
    """An example sent unchanged gets an answer."""
    count = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("examples", {}).values():
            client.post(path.format(model="tiny", version="1"), json=example["value"]).raise_for_status()
            count += 1
    assert 2 == count


def test_operation_matches_its_schemas(client: httpx.Client, tmp_path: Path) -> None:
    """Answers of probes and reloads have no member that the document lacks."""
    schemas.Readiness.model_validate(client.get("/readyz").raise_for_status().json())
    key = tmp_path / "key"
    key.write_text("the-admin-key")
    with running(tiny_settings(tmp_path, admin_key_file=key)) as server, server.client() as admin:
        (tmp_path / "tiny" / "2.onnx").write_bytes(b"no model")
        answer = admin.post("/admin/reload", headers={"X-API-Key": "the-admin-key"}).raise_for_status()
        report = schemas.Reloaded.model_validate(answer.json())
        assert (["tiny/1"], ["tiny/2"]) == (report.unchanged, [one.model for one in report.failed])


def test_docs_work_offline(client: httpx.Client) -> None:
    """`/docs` loads nothing from other hosts and runs no inline script; its files have ETags."""
    page = client.get("/docs").raise_for_status()
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert 4 == len(links)
    for link in links:
        assert not re.match(r"[a-z]+:|//|/", link)
        file = client.get(f"/{link}").raise_for_status()
        assert 304 == client.get(f"/{link}", headers={"If-None-Match": file.headers["etag"]}).status_code
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert not re.search(r"<script>|<script [^>]*>[^<]", page.text)
    assert 404 == client.get("/docs/../app.py").status_code
    assert 404 == client.get("/docs/%2e%2e/app.py").status_code


def test_real_images_pass(client: httpx.Client) -> None:
    """The strategies above hold images that are answered, of every type with a writer."""
    for media_type, image_format in FORMATS.items():
        stream = io.BytesIO()
        Image.new("RGB", (20, 30)).save(stream, image_format)
        answer = client.post("/classify", content=stream.getvalue(), headers={"Content-Type": media_type})
        assert (media_type, 200) == (media_type, answer.status_code)
