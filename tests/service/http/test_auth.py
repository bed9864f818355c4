"""Keys: files that change, what they guard, and the admin's key."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.http.auth import KeyFile
from tests.service.http.test_admission import Caller
from tests.service.running import Running, running, tiny_settings

GUARDED = ["/models", "/v2", "/v2/models/tiny", "/v2/models/tiny/ready"]
OPEN = [
    "/livez",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/",
    "/docs",
    "/errors",
    "/openapi.json",
    "/metrics",
]


def test_several_keys(tmp_path: Path) -> None:
    """Every line is a key; comments, blanks, line ends and a byte order mark are not."""
    path = tmp_path / "keys"
    path.write_bytes(b"\xef\xbb\xbffirst-key # Ann\r\n\n# second-key\n  third-key  \nfourth#key\t#\n #fifth")
    keys = KeyFile(path)
    assert [True] * 3 == [keys.knows(key) for key in (b"first-key", b"third-key", b"fourth#key")]
    strange = (b"second-key", b"", b"first", b"first-key # Ann", b"fourth", b"key", b"#fifth", b"\xef\xbb\xbffirst-key")
    assert [False] * 8 == [keys.knows(key) for key in strange]


def test_changes_count_at_once(tmp_path: Path) -> None:
    """A changed or replaced file applies from the next request on."""
    path = tmp_path / "keys"
    path.write_bytes(b"old-key")
    keys = KeyFile(path)
    path.write_bytes(b"new-key-longer")
    assert (False, True) == (keys.knows(b"old-key"), keys.knows(b"new-key-longer"))
    (tmp_path / "next").write_bytes(b"swapped-key-xx")
    os.replace(tmp_path / "next", path)
    assert (False, True) == (keys.knows(b"new-key-longer"), keys.knows(b"swapped-key-xx"))


def test_missing_file_closes_the_door(tmp_path: Path) -> None:
    """A missing file refuses every key, until it is back."""
    path = tmp_path / "keys"
    path.write_bytes(b"the-key")
    keys = KeyFile(path)
    path.unlink()
    assert not keys.knows(b"the-key")
    assert not keys.knows(b"")
    path.write_bytes(b"the-key")
    assert keys.knows(b"the-key")


@pytest.mark.parametrize("content", [None, b"", b"# only a comment\n\n"])
def test_no_key_is_an_error_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    """A service whose keys cannot be read does not start."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="no key"):
        KeyFile(path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server with keys, and one for its admin."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "api").write_text("ann-key\nbob-key\n")
    (folder / "admin").write_text("root-key\n")
    models = tmp_path_factory.mktemp("models")
    settings = tiny_settings(models, api_keys_file=folder / "api", admin_key_file=folder / "admin")
    with running(settings) as server:
        yield server


@pytest.fixture
def stranger(guarded: Running) -> Iterator[httpx.Client]:
    """Return a client without a key."""
    with guarded.client() as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "eve-key"},
        {"Authorization": "Bearer eve-key"},
        {"Authorization": "Basic YTpi"},
        {"X-API-Key": ""},
    ],
)
def test_unknown_keys(stranger: httpx.Client, red_png: bytes, headers: dict[str, str]) -> None:
    """Without a known key no address of images or models answers."""
    answers = [stranger.get(address, headers=headers) for address in GUARDED]
    posted = ("/classify", "/explain", "/v2/models/tiny/infer", "/classify/", "/v2/anything")
    answers += [stranger.post(address, content=red_png, headers=headers) for address in posted]
    for answer in answers:
        assert (401, "unauthorized") == (answer.status_code, answer.json()["code"])
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("headers", [{"X-API-Key": "ann-key"}, {"Authorization": "bearer bob-key"}])
def test_clients(stranger: httpx.Client, red_png: bytes, headers: dict[str, str]) -> None:
    """Each of the keys is accepted, in either header."""
    assert [200] * len(GUARDED) == [stranger.get(address, headers=headers).status_code for address in GUARDED]
    answer = stranger.post("/classify", content=red_png, headers={**headers, "Content-Type": "image/png"})
    assert 200 == answer.status_code


def test_probes_and_pages_are_open(stranger: httpx.Client) -> None:
    """Probes, metrics and pages need no key."""
    for address in OPEN:
        assert 401 != stranger.get(address).status_code


def test_admin_key(stranger: httpx.Client) -> None:
    """Only the admin's key reloads: a client's is forbidden, none or another is unknown."""
    statuses = {
        key: stranger.post("/admin/reload", headers={"X-API-Key": key} if key else {}).status_code
        for key in ("", "eve-key", "ann-key", "root-key")
    }
    assert {"": 401, "eve-key": 401, "ann-key": 403, "root-key": 200} == statuses
    assert 401 == stranger.get("/models", headers={"X-API-Key": "root-key"}).status_code


def test_no_admin_key(client: httpx.Client) -> None:
    """Without an admin key administration is off."""
    answer = client.post("/admin/reload", headers={"X-API-Key": "anything"})
    assert (403, "forbidden") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("suffix", ["%0A", "%0D%0A", "%0B", "%00", "%20", "/", "//", "/.", ";x", "%2F"])
def test_no_odd_path_gets_past_the_keys(guarded: Running, red_png: bytes, suffix: str) -> None:
    """A guarded path with any suffix is refused: routing never matches it to an address without its key check."""
    paths = {"/classify": "POST", "/explain": "POST", "/models": "GET", "/v2": "GET"}
    paths |= {"/v2/models/tiny/infer": "POST", "/admin/reload": "POST"}
    caller = Caller(guarded)
    with contextlib.closing(caller.socket):
        for path, method in paths.items():
            head = [f"{method} {path}{suffix} HTTP/1.1", "Host: x", "Content-Type: image/png"]
            head.append(f"Content-Length: {len(red_png)}")
            caller.socket.sendall("\r\n".join([*head, "", ""]).encode() + red_png)
            assert caller.read().status in (401, 404), path
