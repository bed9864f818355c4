"""Which of a model and its variant answers, at the start and while serving."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest

from service.http.api.schemas import Classification, Models, Readiness
from service.inference.engine import Engine, OnnxEngine
from service.inference.models import check_there
from service.inference.precision import choose, measured, read_files
from service.inference.sessions import ModelRejected
from service.inference.verify import verify
from service.settings import Settings
from tests.service.inference.test_models import names, put, started_registry
from tests.service.running import running, tiny_settings
from tests.service.tiny_model import WEIGHTS, tiny_manifest, tiny_model, tiny_self_check

FULL = tiny_model()
SMALL_WEIGHTS = WEIGHTS * 1.01
GOOD = {
    "gate.images": 200.0,
    "gate.top1_drop": 0.1,
    "gate.same_class": 99.0,
    "gate.spearman": 0.99,
    "gate.spearman_median": 0.99,
    "gate.contrast_median": 0.99,
}


def small(full: bytes = FULL, offset: float = 0.0, **changes: Any) -> bytes:
    """Return a variant of a model, which answers a little differently; one that fails its check with an `offset`."""
    facts = {
        "precision": "int8",
        "metrics": GOOD,
        "variant_of": sha256(full),
        "self_check": tiny_self_check(SMALL_WEIGHTS, offset),
    }
    return tiny_model(tiny_manifest(**{**facts, **changes}), weights=SMALL_WEIGHTS)


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest of a file."""
    return hashlib.sha256(data).hexdigest()


def settings(path: Path, precision: str) -> Settings:
    """Return settings for a model file."""
    return Settings(model=path, device="cpu", precision=precision)  # type: ignore[arg-type]


def chosen(path: Path, precision: str, ratio: float = 2.0) -> str:
    """Return the precision that answers where the variant is so many times as fast."""
    options = settings(path, precision)
    checked: list[str] = []
    engine, digest = choose(
        read_files(path, options), options, OnnxEngine, lambda _, found: checked.append(found),
        speed_up=lambda *_: ratio,
    )  # fmt: skip
    assert digest in checked
    return engine.manifest.precision


@pytest.mark.parametrize(
    ("precision", "ratio", "expected"),
    [
        ("fp32", 9.0, "fp32"),
        ("int8", 2.0, "int8"),
        ("int8", 0.8, "int8"),
        ("auto", 1.3, "int8"),
        ("auto", 1.29, "fp32"),
    ],
)
def test_precision_is_as_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, precision: str, ratio: float, expected: str
) -> None:
    """`auto` takes the variant where it is fast enough; `int8` takes it always, with a warning where it is slower."""
    path = put(tmp_path, "tiny/1", FULL)
    put(tmp_path, "tiny/1.int8", small())
    with caplog.at_level(logging.INFO):
        assert expected == chosen(path, precision, ratio)
    assert (ratio < 1) == ("slower here: 0.80 times" in caplog.text)


def test_a_variant_of_unknown_or_poor_quality_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`auto` needs the figures of the export within the limits; `int8` is an order."""
    path = put(tmp_path, "tiny/1", FULL)
    for metrics in ({}, GOOD | {"gate.spearman": 0.5}):
        put(tmp_path, "tiny/1.int8", small(metrics=metrics))
        assert ["fp32", "int8"] == [chosen(path, precision) for precision in ("auto", "int8")]
    assert "1.int8.onnx is not used: the export did not record contrast_median, images, same_class" in caplog.text
    assert "1.int8.onnx is not used: rank correlation of map cells 0.5 (at least 0.98)" in caplog.text


def test_no_variant(tmp_path: Path) -> None:
    """`auto` runs what there is; `int8` refuses, unless the file itself is in int8."""
    path = put(tmp_path, "exported", FULL)
    assert "fp32" == chosen(path, "auto")
    with pytest.raises(ModelRejected, match=r"^precision=int8, but there is no file exported\.int8\.onnx beside it$"):
        chosen(path, "int8")
    itself = put(tmp_path, "2.int8", small())
    assert "int8" == chosen(itself, "int8")
    with pytest.raises(ModelRejected, match=r"^precision=fp32, but the file itself is in int8: set precision=int8$"):
        chosen(itself, "fp32")


def test_a_variant_that_cannot_run_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under `auto` a variant whose graph fails at its first run leaves the answers to fp32, with the reason."""
    failing = onnx.load_from_string(small())
    (first,) = (node for node in failing.graph.node if node.output[0] == "logits")
    failing.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([9]), "beyond"))
    first.output[0] = "found"
    failing.graph.node.append(onnx.helper.make_node("Gather", ["found", "beyond"], ["logits"], axis=0))
    path, options = put(tmp_path, "tiny/1", FULL), settings(tmp_path, "auto")
    put(tmp_path, "tiny/1.int8", failing.SerializeToString())
    engine, _ = choose(read_files(path, options), options, OnnxEngine, lambda engine, _: verify(engine))
    assert "fp32" == engine.manifest.precision
    assert "1.int8.onnx is refused, fp32 answers: the graph fails: " in caplog.text


def broken(engine: Engine, _: str) -> None:
    """Refuse variants."""
    if engine.manifest.precision == "int8":
        raise ModelRejected("the self-check is off")


@pytest.mark.parametrize(
    ("data", "replaces", "auto"),
    [
        (small(full=b"another"), False, "fp32"),
        (small(full=b"another"), True, "fp32"),
        (small(), False, "fp32"),
        (small(), True, "1.int8.onnx"),
        (b"no model", False, "fp32"),
    ],
)
def test_variants_that_are_refused(tmp_path: Path, data: bytes, replaces: bool, auto: str) -> None:
    """What is of another file is passed over; what is broken is, too, unless a good pair is served already."""
    path, served = put(tmp_path, "tiny/1", FULL), OnnxEngine(FULL, settings(tmp_path, "fp32"))
    put(tmp_path, "tiny/1.int8", data)

    def found(precision: str) -> str:
        options = settings(path, precision)
        try:
            files = read_files(path, options)
            engine, _ = choose(files, options, OnnxEngine, broken, served if replaces else None, lambda *_: 2.0)
        except ModelRejected as error:
            return str(error).partition(":")[0]
        return engine.manifest.precision

    assert [auto, "1.int8.onnx", "fp32"] == [found(precision) for precision in ("auto", "int8", "fp32")]


def test_speed_up_is_that_of_the_shortest_runs() -> None:
    """Both run in turn, at least ten times; a first run, and one beside other work, do not count."""
    now = 0.0
    runs: list[str] = []

    def timed(name: str, seconds: Callable[[int], float]) -> OnnxEngine:
        """Return an engine whose runs take as long as said."""
        engine = OnnxEngine(FULL, Settings(device="cpu"))

        def run(*_: object) -> None:
            nonlocal now
            runs.append(name)
            now += seconds(runs.count(name))

        engine.run = run  # type: ignore[method-assign,assignment]
        return engine

    full = timed("full", lambda count: 90.0 if count == 1 else 4.0)
    variant = timed("small", lambda count: 40.0 if count == 3 else 2.0)
    assert 2.0 == measured(full, variant, clock=lambda: now)
    assert ["full", "small"] * 10 == runs


def test_int8_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """Where no version has a variant nothing is loaded; a file by itself may be in int8 under any name."""
    path = put(tmp_path, "tiny/1", b"not looked into")
    check_there(settings(tmp_path, "auto"))
    with pytest.raises(ModelRejected, match=r"^precision=int8, but no model at .* has a file VERSION\.int8\.onnx$"):
        check_there(settings(tmp_path, "int8"))
    variant = put(tmp_path, "tiny/1.int8", b"not looked into")
    for model in (tmp_path, path, variant):
        check_there(settings(model, "int8"))


@pytest.mark.anyio
async def test_a_pair_is_swapped_and_rolled_back_together(tmp_path: Path) -> None:
    """A new version brings its variant; the one before comes back with its own; nothing is loaded twice."""
    put(tmp_path, "tiny/1", FULL)
    put(tmp_path, "tiny/1.int8", small())
    async with started_registry(tmp_path, precision="int8") as registry:
        await registry.wait_ready()
        assert ["tiny/1"] == names(registry)
        before = registry.get()
        assert ("int8", sha256(small())) == (before.manifest.precision, before.sha256)
        assert ["tiny/1"] == (await registry.reload())["unchanged"]
        assert before is registry.get()

        other = tiny_model(weights=WEIGHTS[:, ::-1].copy())
        path = put(tmp_path, "tiny/2", other)
        report = await registry.reload()
        assert ["tiny/2"] == [failed["model"] for failed in report["failed"]]
        put(tmp_path, "tiny/2.int8", small(other))
        assert ["tiny/2"] == (await registry.reload())["loaded"]
        assert ("2", sha256(small(other))) == (registry.get().version, registry.get().sha256)

        path.unlink()
        assert ["tiny/2"] == (await registry.reload())["removed"]
        assert before is registry.get()


@pytest.mark.anyio
async def test_a_broken_variant_leaves_the_last_good_pair(tmp_path: Path) -> None:
    """A variant that fails its self-check while swapping changes nothing, whatever the file beside it."""
    put(tmp_path, "tiny/1", FULL)
    put(tmp_path, "tiny/1.int8", small())
    async with started_registry(tmp_path, precision="int8") as registry:
        await registry.wait_ready()
        before = registry.get()
        other = tiny_model(weights=WEIGHTS[:, ::-1].copy())
        put(tmp_path, "tiny/1", other)
        for wrong in (small(), small(other, offset=1.0)):
            put(tmp_path, "tiny/1.int8", wrong)
            (failed,) = (await registry.reload())["failed"]
            assert ("tiny/1", before) == (failed["model"], registry.get())
        put(tmp_path, "tiny/1.int8", small(other))
        assert ["tiny/1"] == (await registry.reload())["loaded"]


def test_answers_say_which_file_runs(tmp_path: Path, red_png: bytes) -> None:
    """Answers, `/models`, `/readyz` and the metrics name precision and sha256 of the file that runs."""
    options = tiny_settings(tmp_path, precision="int8")
    put(tmp_path, "tiny/1.int8", small())
    with running(options) as server, server.client() as client:
        asked = client.post("/classify", content=red_png, headers={"Content-Type": "image/png"})
        answer = Classification.model_validate_json(asked.raise_for_status().content).model
        listed = Models.model_validate(get(client, "/models")).models[0]
        ready = Readiness.model_validate(get(client, "/readyz")).models[0]
        expected = ("int8", sha256(small()))
        assert [expected] * 3 == [(one.precision, one.sha256) for one in (answer, listed, ready)]
        assert f'precision="int8",provider="CPUExecutionProvider",sha256="{expected[1]}"' in client.get("/metrics").text


def get(client: httpx.Client, path: str) -> Any:
    """Return the JSON of a GET."""
    return client.get(path).raise_for_status().json()
