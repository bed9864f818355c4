"""Models on disk and models served: when files are loaded, refused, kept and retired."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotReady, UnknownModel
from service.inference import models
from service.inference.engine import Engine, OnnxEngine, Question
from service.inference.models import Registry, check_there
from service.inference.runtime import Runtime
from service.inference.sessions import ModelRejected
from service.settings import Settings
from tests.service.conftest import encoded
from tests.service.tiny_model import WEIGHTS, tiny_manifest, tiny_model, tiny_self_check

pytestmark = pytest.mark.anyio

OTHER_WEIGHTS = WEIGHTS[:, ::-1].copy()
BROKEN = tiny_model(tiny_manifest(self_check=tiny_self_check(offset=1.0)))
LISTS_TOO_MUCH = tiny_model(tiny_manifest(layers=tiny_manifest().layers * 2))


def other_model() -> bytes:
    """Return a model that answers differently, and whose self-check passes."""
    return tiny_model(weights=OTHER_WEIGHTS)


def put(folder: Path, key: str, data: bytes, age_s: float = 0.0) -> Path:
    """Rename a complete model into place, as the exporter does."""
    path = folder / f"{key}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".tmp")
    new.write_bytes(data)
    if age_s:
        stamp = new.stat().st_mtime - age_s
        os.utime(new, (stamp, stamp))
    new.replace(path)
    return path


@asynccontextmanager
async def started_runtime(
    model: Path, load: Callable[..., Engine] = OnnxEngine, **options: Any
) -> AsyncIterator[Runtime]:
    """Start a runtime that reads its files only when a test calls for it."""
    runtime = Runtime(Settings(**{"model": model, "device": "cpu", "poll_interval_s": 3600, **options}), load=load)
    await runtime.start()
    try:
        async with asyncio.timeout(60):
            yield runtime
    finally:
        await runtime.stop()


@asynccontextmanager
async def started_registry(model: Path, *options: Any, **named: Any) -> AsyncIterator[Registry]:
    """Start a runtime and return its models."""
    async with started_runtime(model, *options, **named) as runtime:
        yield runtime.models


def names(registry: Registry) -> list[str]:
    """Return the served models, as NAME/VERSION."""
    return [f"{served.name}/{served.version}" for served in registry.served()]


async def test_folder_is_served_newest_first(tmp_path: Path) -> None:
    """Versions are whole numbers compared as numbers; the first name and its newest version are the default."""
    for key in ("tiny/2", "tiny/10", "tiny/9", "small/1"):
        put(tmp_path, key, tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        assert ["small/1", "tiny/10", "tiny/9", "tiny/2"] == names(registry)
        assert ("small", "1") == (registry.get().name, registry.get().version)
        assert [registry.get("tiny").version, registry.get("tiny", "9").version] == ["10", "9"]
        assert registry.get("tiny", 2).version == "2"
        for wrong in [("none", None), ("tiny", "11"), ("tiny", "ten"), ("tiny", "-2")]:
            with pytest.raises(UnknownModel):
                registry.get(*wrong)


async def test_default_model_is_a_setting(tmp_path: Path) -> None:
    """With several names, a setting chooses the one that answers without `?model=`."""
    for key in ("a/1", "b/1"):
        put(tmp_path, key, tiny_model())

    async with started_registry(tmp_path, default_model="b") as registry:
        await registry.wait_ready()
        assert registry.get().name == "b"


async def test_default_model_that_is_not_there(tmp_path: Path) -> None:
    """A service whose default model is missing or refused is never ready, for a folder and for a file."""
    path = put(tmp_path, "a/1", tiny_model())
    put(tmp_path, "bad/1", BROKEN)
    for model, name in ((tmp_path, "b"), (path, "b"), (tmp_path, "bad")):  # the last is there, and refused
        async with started_runtime(model, default_model=name) as runtime:
            with pytest.raises(ModelRejected, match=r"default_model=b"):
                await runtime.models.wait_ready()
            assert not runtime.ready


def test_files_are_checked_before_anything_starts(tmp_path: Path) -> None:
    """A path without models, and a default model that no folder has, are refused without loading anything."""
    put(tmp_path, "a/1", b"not looked into")
    check_there(Settings(model=tmp_path, default_model="a"))
    check_there(Settings(model=tmp_path / "a" / "1.onnx", default_model="what its manifest says"))
    with pytest.raises(ModelRejected, match=r"default_model=b, but the models at .* are: a$"):
        check_there(Settings(model=tmp_path, default_model="b"))
    for wrong in (tmp_path / "typo", tmp_path / "a"):
        with pytest.raises(ModelRejected, match=f"^no model at {wrong}"):
            check_there(Settings(model=wrong))


async def test_single_file_is_named_by_its_manifest(tmp_path: Path) -> None:
    """A file needs no folder around it."""
    path = put(tmp_path, "exported", tiny_model())

    async with started_registry(path) as registry:
        await registry.wait_ready()
        assert ["tiny/1"] == names(registry)


async def test_not_ready_before_the_first_load(tmp_path: Path) -> None:
    """`start` returns at once; nothing is answered before a model is warm."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_runtime(tmp_path) as runtime:
        assert not runtime.ready
        with pytest.raises(NotReady):
            runtime.models.get()
        await runtime.models.wait_ready()
        assert runtime.ready
        assert runtime.status()["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no model at"),
        ({"tiny/1": b"\xff\xff"}, "not an ONNX file"),
        ({"tiny/1": BROKEN}, "self-check"),
        ({"tiny/1": LISTS_TOO_MUCH}, "the graph has only 1"),
    ],
)
async def test_nothing_to_serve(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    """If no model can be served, waiting for one raises the reason."""
    for key, data in files.items():
        put(tmp_path, key, data)

    async with started_runtime(tmp_path) as runtime:
        with pytest.raises(ModelRejected, match=message):
            await runtime.models.wait_ready()
        assert not runtime.ready


async def test_one_bad_model_does_not_stop_the_others(tmp_path: Path) -> None:
    """The good models are served beside a refused one."""
    put(tmp_path, "bad/1", BROKEN)
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        assert ["tiny/1"] == names(registry)


async def test_reload_swaps_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version and a changed file are loaded, an unchanged one is left alone; what was freed goes back."""
    put(tmp_path, "tiny/1", tiny_model())
    put(tmp_path, "small/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        before = registry.get("tiny", 1)
        put(tmp_path, "tiny/1", other_model())
        put(tmp_path, "tiny/2", tiny_model())
        freed: list[None] = []
        monkeypatch.setattr(models, "return_freed_blocks", lambda: freed.append(None))
        report = await registry.reload()
        assert [None] == freed
        assert {"loaded": ["tiny/1", "tiny/2"], "unchanged": ["small/1"], "removed": [], "failed": []} == report
        assert registry.get("tiny", 1).sha256 != before.sha256
        assert registry.get("tiny").version == "2"


async def test_failing_self_check_rolls_back(tmp_path: Path) -> None:
    """A file that fails its self-check changes nothing, and is tried again by a reload only."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        good = registry.get()
        put(tmp_path, "tiny/1", BROKEN)
        report = await registry.reload()
        assert ["tiny/1"] == [entry["model"] for entry in report["failed"]]
        assert "self-check" in report["failed"][0]["reason"]
        assert registry.get() is good
        async with registry._busy:
            assert ["tiny/1"] == (await registry._check(trust=True)).unchanged
        assert 1 == len((await registry.reload())["failed"])
        put(tmp_path, "tiny/1", other_model())
        assert ["tiny/1"] == (await registry.reload())["loaded"]


async def test_reasons_hold_no_folders(tmp_path: Path) -> None:
    """Reasons reach clients of `/admin/reload`, so they contain no folders of the host."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        put(tmp_path, "tiny/2", b"not a model")
        put(tmp_path, "tiny/3", tiny_model()[:400])
        assert str(tmp_path) not in str(await registry.reload())


async def test_a_reload_retires_but_never_the_last(tmp_path: Path) -> None:
    """A reload retires a version without a file, but never the last one of all."""
    old, new = put(tmp_path, "tiny/1", tiny_model()), put(tmp_path, "tiny/2", other_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        new.unlink()
        assert ["tiny/2"] == (await registry.reload())["removed"]
        assert ["tiny/1"] == names(registry)
        old.unlink()
        assert [] == (await registry.reload())["removed"]
        assert ["tiny/1"] == names(registry)
        put(tmp_path, "tiny/1", other_model())
        assert ["tiny/1"] == (await registry.reload())["loaded"]


async def test_polling_never_retires(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Vanished files change no answer; each is reported by one warning and by the gauge."""
    files = [put(tmp_path, f"tiny/{number}", tiny_model()) for number in (2, 9, 10)]

    caplog.set_level("INFO", "service.inference.models")
    async with started_runtime(tmp_path) as runtime:
        registry = runtime.models
        await registry.wait_ready()
        loaded = registry.served()
        away = tmp_path.with_name("away")
        for gone in (lambda: files[2].unlink(), lambda: tmp_path.rename(away)):
            gone()
            for _ in range(3):
                assert [] == (await registry._check()).removed
            assert (loaded, "10") == (registry.served(), registry.get().version)
        assert 3 == runtime.metrics.registry.get_sample_value("fieldmark_model_files_missing")
        assert 3 == caplog.text.count("is missing")
        away.rename(tmp_path)
        assert [] == (await registry._check()).loaded
        assert 1 == runtime.metrics.registry.get_sample_value("fieldmark_model_files_missing")
        assert ["tiny/2", "tiny/9"] == [line.split()[4] for line in caplog.messages if line.endswith("is back")]
        assert ["tiny/10"] == (await registry.reload())["removed"]
        assert 0 == runtime.metrics.registry.get_sample_value("fieldmark_model_files_missing")
        assert "9" == registry.get().version


async def test_reload_without_any_file_retires_nothing(tmp_path: Path) -> None:
    """An empty folder counts as an outage of the storage: nothing is retired."""
    for number in (9, 10):
        put(tmp_path, f"tiny/{number}", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        for path in tmp_path.glob("*/*"):
            path.unlink()
        report = await registry.reload()
        assert ([], ["tiny/9", "tiny/10"]) == (report["removed"], report["unchanged"])
        assert "10" == registry.get().version


async def test_versions_are_retired_and_reported_as_numbers(tmp_path: Path) -> None:
    """Of a name without files the oldest versions are retired first; reports are in numerical order."""
    for key in ("kept/9", "kept/10", "tiny/9", "tiny/10", "tiny/100"):
        put(tmp_path, key, tiny_model())

    async with started_registry(tmp_path, default_model="tiny") as registry:
        await registry.wait_ready()
        for path in (tmp_path / "tiny").glob("*"):
            path.unlink()
        report = await registry.reload()
        assert (["tiny/9", "tiny/10"], ["kept/9", "kept/10", "tiny/100"]) == (report["removed"], report["unchanged"])
        assert "100" == registry.get().version


async def test_a_name_is_retired_when_another_answers(tmp_path: Path) -> None:
    """A reload retires a name without files, as long as another name answers by default."""
    put(tmp_path, "a/1", tiny_model())
    put(tmp_path, "b/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        (tmp_path / "b" / "1.onnx").unlink()
        assert ["b/1"] == (await registry.reload())["removed"]
        assert ["a/1"] == names(registry)


async def test_renamed_version_with_new_content_is_served(tmp_path: Path) -> None:
    """`1.onnx` that becomes `001.onnx` is the same version, read from its new place."""
    path = put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        before = registry.get()
        path.unlink()
        put(tmp_path, "tiny/001", other_model(), age_s=7200)
        assert ["tiny/1"] == (await registry._check()).loaded
        assert before.sha256 != registry.get().sha256


async def test_a_file_that_cannot_be_read_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the storage ends without a change of the file; it is logged once."""
    put(tmp_path, "tiny/1", tiny_model())
    readable: list[bool] = []

    def load(data: bytes, settings: Settings) -> Engine:
        if data == other_model() and not readable:
            raise ModelRejected("2.onnx cannot be read: Input/output error") from OSError(5, "Input/output error")
        return OnnxEngine(data, settings)

    async with started_registry(tmp_path, load) as registry:
        await registry.wait_ready()
        put(tmp_path, "tiny/2", other_model(), age_s=7200)
        for _ in range(3):
            assert 1 == len((await registry._check()).failed)
        assert 1 == caplog.text.count("Input/output error")
        readable.append(True)
        assert ["tiny/2"] == (await registry._check()).loaded


async def test_polling_waits_for_a_complete_file(tmp_path: Path) -> None:
    """A file that is still being written is loaded once two polls find it unchanged."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        data, growing = other_model(), tmp_path / "tiny" / "2.onnx"
        for size in (10, len(data) // 2, len(data)):
            growing.write_bytes(data[:size])
            assert [] == (await registry._check()).loaded
        assert ["tiny/2"] == (await registry._check()).loaded


async def test_polling_takes_a_renamed_file_at_once(tmp_path: Path) -> None:
    """A file that was written a while ago and renamed into place is loaded by the first poll."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path) as registry:
        await registry.wait_ready()
        put(tmp_path, "tiny/2", other_model(), age_s=7200)
        assert ["tiny/2"] == (await registry._check()).loaded


async def test_polling_runs_by_itself(tmp_path: Path) -> None:
    """A new version is loaded without a reload."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path, poll_interval_s=0.01) as registry:
        await registry.wait_ready()
        put(tmp_path, "tiny/2", other_model())
        while len(registry.served()) < 2:
            await asyncio.sleep(0.005)


async def test_twenty_swaps_under_load_lose_nothing(tmp_path: Path) -> None:
    """Running requests keep the model that they began with; every one is answered by one of the two models."""
    put(tmp_path, "tiny/1", tiny_model())
    photo = encoded("red")

    async with started_runtime(tmp_path) as runtime:
        registry, predictor = runtime.models, runtime.predictor
        await registry.wait_ready()
        swapping, answers = True, []

        async def ask() -> None:
            while swapping:
                served = registry.get()
                prediction = await predictor.predict(served, photo, Question.about(served.manifest))
                answers.append((served.sha256 == prediction.served.sha256, int(prediction.logits.argmax())))

        clients = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(20):
            put(tmp_path, "tiny/1", other_model() if number % 2 == 0 else tiny_model())
            assert ["tiny/1"] == (await registry.reload())["loaded"]
        swapping = False
        await asyncio.gather(*clients)
        assert {(True, 0), (True, 3)} >= set(answers)
        assert len(answers) >= 8


async def test_metrics_name_what_is_loaded(tmp_path: Path) -> None:
    """The model's name, version, hash and provider are a metric, which is removed with the model."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_runtime(tmp_path) as runtime:
        registry = runtime.models
        await registry.wait_ready()
        old = registry.get().sha256
        put(tmp_path, "tiny/1", other_model())
        await registry.reload()
        page = runtime.metrics.exposition(None)[0].decode()
        assert registry.get().sha256 in page
        assert old not in page


class _OtherEngine(OnnxEngine):
    """Another engine."""


async def test_another_loader_can_be_given(tmp_path: Path) -> None:
    """Tests and other programs can pass their own loader of engines."""
    put(tmp_path, "tiny/1", tiny_model())

    async with started_registry(tmp_path, _OtherEngine) as registry:
        await registry.wait_ready()
        assert isinstance(registry.get().engine, _OtherEngine)
