"""A model is verified once on a machine, and again whenever the outcome could be another."""

import hashlib
from pathlib import Path

import pytest

from service.inference import sessions, verified
from service.inference.engine import OnnxEngine, Outputs, Question
from service.inference.runtime import Runtime
from service.inference.sessions import ModelRejected
from service.inference.verified import open_once, verify_once
from service.settings import Settings
from tests.service.tiny_model import tiny_manifest, tiny_model, tiny_self_check

SHA256 = "0123" * 16


class Counting(OnnxEngine):
    """Counts its runs."""

    runs = 0

    def run(self, images: object, question: Question, *, alone: bool = False) -> Outputs:
        """Run the graph."""
        self.runs += 1
        return super().run(images, question)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fieldmark" / "verified"


def runs(sha256: str = SHA256) -> int:
    """Return how often a model is run to verify it."""
    engine = Counting(tiny_model(), Settings(device="cpu"))
    verify_once(engine, sha256)
    return engine.runs


def test_once(cache: Path) -> None:
    """The second time nothing is run; another file is verified anew."""
    assert runs() > 0
    assert 1 == len(list(cache.iterdir()))
    assert 0 == runs()
    assert runs("4567" * 16) > 0


@pytest.mark.parametrize("changed", ["_processor", "runtime", "verify", "files.external_data"])
def test_again_where_something_else_has_changed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Another processor, another ONNX Runtime or other checks: the model is verified again."""
    assert runs() > 0
    if changed == "_processor":
        monkeypatch.setattr(verified, "_processor", lambda: "model name: another")
    elif changed == "runtime":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    else:
        (tmp_path / "checks.py").write_text("# other checks")
        monkeypatch.setattr(f"service.inference.{changed}.__file__", str(tmp_path / "checks.py"))
    assert runs() > 0
    assert 2 == len(list(cache.iterdir()))


@pytest.mark.usefixtures("cache")
def test_only_what_was_verified_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """External data is looked for in every file that is new to this machine, and until it has passed its checks."""
    searched: list[bytes] = []
    monkeypatch.setattr(sessions, "has_external_data", lambda data: bool(searched.append(data)))
    first, second = tiny_model(), tiny_model(tiny_manifest(self_check=tiny_self_check(offset=1)))
    settings = Settings(device="cpu")
    for data in (first, first, second, second):
        engine = open_once(data, settings)
        if data is first:
            verify_once(engine, hashlib.sha256(data).hexdigest())
    assert [first, second, second] == searched


def test_what_fails_is_not_remembered(cache: Path) -> None:
    """A model that fails its check fails every time."""
    data = tiny_model(tiny_manifest(self_check=tiny_self_check(offset=1)))
    for _ in range(2):
        with pytest.raises(ModelRejected):
            verify_once(OnnxEngine(data, Settings(device="cpu")), SHA256)
    assert not cache.exists()


def test_a_gpu_is_always_verified(cache: Path) -> None:
    """A GPU's sessions are warmed by the checks, so that they run every time."""
    engine = Counting(tiny_model(), Settings(device="cpu"))
    engine.provider = "CUDAExecutionProvider"
    verify_once(engine, SHA256)
    assert engine.runs > 0
    assert not cache.exists()


def test_bounded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache forgets what it remembered first."""
    monkeypatch.setattr(verified, "MOST", 3)
    for index in range(5):
        runs(f"{index:064x}")
    assert 3 == len(list(cache.iterdir()))
    assert 0 == runs(f"{4:064x}")


@pytest.mark.parametrize("kind", ["a file", "a file above", "no home"])
def test_a_cache_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Without a cache a model is verified every time, and nothing fails."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if kind == "no home":
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setattr(Path, "home", classmethod(lambda _: (_ for _ in ()).throw(RuntimeError("no home"))))
    else:
        (tmp_path / "fieldmark").mkdir()
        place = tmp_path / "fieldmark" / "verified" if kind == "a file" else tmp_path / "fieldmark"
        if kind == "a file above":
            place.rmdir()
        place.write_text("")
    assert runs() > 0
    assert runs() > 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("default", "broken", "expected"),
    [("", "", ["ab/10"]), ("cd", "", ["cd/1"]), ("", "ab/10", ["ab/9"])],
)
async def test_a_command_loads_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str, broken: str, expected: list[str]
) -> None:
    """Of a folder a command loads only the model that answers; where that is broken, the one that answers then."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    models = tmp_path / "models"
    for key in ("ab/9", "ab/10", "cd/1"):
        path = models / f"{key}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk" if key == broken else tiny_model())
    runtime = Runtime(Settings(model=models, device="cpu", default_model=default), once=True)
    await runtime.start()
    try:
        await runtime.models.wait_ready()
        assert expected == [f"{served.name}/{served.version}" for served in runtime.models.served()]
        assert expected[0].rpartition("/")[0] == runtime.models.get().name
    finally:
        await runtime.stop()
