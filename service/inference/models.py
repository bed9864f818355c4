"""Which models are served: names, versions, hot swap.

A folder holds `NAME/VERSION.onnx`; a version is a whole number, compared as a number, the newest answers by default.
The folder is polled every few seconds: a complete new file is loaded, warmed and checked beside the running model, and
replaces it in one step. Running work keeps the model that it started with, so no request is lost; a file that fails its
check changes nothing. The table of priors beside a model, `NAME/priors.csv`, is read and replaced in the same way.
Storage comes and goes: a version whose file vanished is served until an operator reloads and another can answer.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.contract.variant import full_path
from model.photo.budget import return_freed_blocks
from service.errors import NotReady, UnknownModel
from service.inference.batcher import WorkerLost
from service.inference.engine import Engine, OnnxEngine, may_pass
from service.inference.files.priors import NO_PRIORS, PriorsFile, PriorsRejected
from service.inference.files.versions import Signature, by_number, is_number, scan
from service.inference.precision import Load, choose, read_files, variant_precision
from service.inference.served import ServedModel
from service.inference.sessions import ModelRejected
from service.inference.verified import open_once, verify_once
from service.inference.verify import self_check, verify
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger(__name__)
priors_logger = logging.getLogger("service.inference.files.priors")  # commands silence the other


@dataclass(slots=True)
class _Slot:
    """The file of one version: as last seen, as last loaded (`tried`), why that failed, its table, the model served."""

    path: Path
    seen: Signature | None = None
    tried: Signature | None = None
    failed: str = ""
    priors: PriorsFile = field(default_factory=PriorsFile)
    served: ServedModel | None = None


@dataclass(slots=True)
class ReloadReport:
    """The changes of one reload; names as `NAME/VERSION`."""

    loaded: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


class Registry:
    """The models of this service.

    Args:
        settings: path of the models, device and limits.
        metrics: for models and reloads.
        load: makes an engine of a file's bytes; another one in tests. None: as the service does, or a command.
        once: for a command: only the model that answers by default, as it is now, verified only where new here.

    Attributes:
        failed: why nothing could be loaded at the start; None otherwise.
    """

    def __init__(self, settings: Settings, metrics: Metrics, load: Load | None = None, *, once: bool = False) -> None:
        self._settings = settings
        self._metrics = metrics
        self.failed: ModelRejected | None = None
        self._load: Load = load or (open_once if once else OnnxEngine)
        self._once = once
        self._slots: dict[str, _Slot] = {}
        self._index: dict[str, dict[int, ServedModel]] = {}
        self._missing: set[str] = set()
        self._busy = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._first_load = asyncio.Event()

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop polling the files."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def clear(self) -> None:
        """Release the models."""
        self._slots.clear()
        self._index.clear()

    async def wait_ready(self) -> None:
        """Wait for the first load.

        Raises:
            ModelRejected: no model could be loaded.
        """
        await self._first_load.wait()
        if self.failed is not None:
            raise self.failed

    @property
    def loaded(self) -> bool:
        """Whether a request that names no model can be answered."""
        return bool(self._index) and (self._settings.default_model or min(self._index)) in self._index

    def served(self) -> list[ServedModel]:
        """Return all models: by name, the newest version first."""
        return [
            versions[number] for _, versions in sorted(self._index.items()) for number in sorted(versions, reverse=True)
        ]

    def get(self, name: str | None = None, version: str | int | None = None) -> ServedModel:
        """Return a model: by default `default_model`, else the first name, and of it the newest version.

        Raises:
            NotReady: nothing is loaded yet.
            UnknownModel: no such name or version.
        """
        if not self._index:
            raise NotReady("No model is loaded yet.")
        versions = self._index.get(name or self._settings.default_model or min(self._index))
        if versions is None:
            raise UnknownModel(extensions={"models": sorted(self._index)})
        if version is None:
            return versions[max(versions)]
        served = versions.get(int(version)) if is_number(str(version)) else None
        if served is None:
            raise UnknownModel("That version is not loaded.", extensions={"versions": sorted(versions)})
        return served

    async def reload(self) -> dict[str, Any]:
        """Check the files now: take all as complete, try failed ones again, retire versions without a file.

        Of a name without any file the newest version stays, unless other names answer; see `ReloadReport`.
        """
        async with self._busy:
            report = await self._check(trust=True, retire=True)
        if not (report.loaded or report.failed or report.removed):
            self._metrics.reloads.labels("unchanged").inc()
        return asdict(report)

    async def _watch(self) -> None:
        """Load what there is, then poll the files."""
        try:
            async with self._busy:
                report = await self._check(trust=True)
            if not self.loaded:
                without_default = [_no_default(self._settings, self._index)] if self._index else []
                self.failed = ModelRejected("; ".join([*without_default, *_why(report, self._settings.model)]))
        except ModelRejected as error:
            self.failed = error
        except Exception as error:
            logger.exception("the models cannot be loaded")
            self.failed = ModelRejected(f"the models cannot be loaded: {error}")
        self._first_load.set()
        while self.failed is None and not self._once:
            await asyncio.sleep(self._settings.poll_interval_s)
            try:
                async with self._busy:
                    await self._check()
            except Exception:
                logger.exception("polling the models failed; the loaded ones stay")

    async def _check(self, *, trust: bool = False, retire: bool = False) -> ReloadReport:
        """Load new and complete files; versions whose file vanished stay, unless they are to be retired.

        Args:
            trust: take every file as complete, rather than wait until it stays the same.
            retire: at an operator's request: try failed files again, and retire versions without a file.
        """
        report = ReloadReport()
        found = await asyncio.to_thread(scan, self._settings.model, variant_precision(self._settings))
        for key in self._in_order(found):
            path, signature = found[key]
            slot = self._slots.setdefault(key, _Slot(path))
            if slot.path != path:  # 1.onnx is 001.onnx now: the same place, another file
                slot.path, slot.tried = path, None
            settled = trust or slot.seen == signature or signature.is_older_than(self._settings.poll_interval_s)
            slot.seen = signature
            if slot.tried == signature and not (retire and slot.failed):
                report.unchanged.append(key)
            elif settled:
                await self._try(key, slot, signature, report, again=retire)
            if slot.served is not None and _key(slot.served) not in report.loaded:
                served = await self._with_priors(key, slot, slot.served, report, trust=trust, again=retire)
                if served is not slot.served:
                    self._swap(slot, served)
                    report.loaded.append(_key(served))
                    report.unchanged = [one for one in report.unchanged if one != key]
            if self._once and self.loaded:
                break
        self._keep_or_retire(set(found), report, retire)
        if (report.loaded or report.removed) and not self._once:
            await asyncio.to_thread(return_freed_blocks)
        return report

    def _in_order(self, found: Iterable[str]) -> list[str]:
        """Return the order in which files are loaded: for a command, the one first that answers by default."""
        if not self._once:
            return list(found)

        def rank(key: str) -> tuple[bool, str]:
            name = key.rpartition("/")[0]
            return name != self._settings.default_model, name

        return sorted(sorted(found, key=by_number, reverse=True), key=rank)

    async def _try(self, key: str, slot: _Slot, signature: Signature, report: ReloadReport, *, again: bool) -> None:
        failed_before, slot.tried, slot.failed = slot.failed, signature, ""
        try:
            served = await asyncio.to_thread(self._make, key, slot)
        except Exception as error:
            expected = isinstance(error, ModelRejected)
            slot.failed = str(error) if expected else f"{type(error).__name__} while loading"
            if may_pass(error):
                slot.tried = None  # without a change of the file
            if again or slot.failed != failed_before:
                stays = "the loaded one stays" if slot.served else "it is not served"
                logger.error("model %s is refused, %s: %s", key, stays, slot.failed, exc_info=not expected)
                self._metrics.reloads.labels("failed").inc()
            report.failed.append({"model": key, "reason": slot.failed})
            return
        if slot.served is not None and served.sha256 == slot.served.sha256:
            report.unchanged.append(key)
            return
        slot.priors = PriorsFile()
        served = await self._with_priors(key, slot, self._with_those_in_use(served), report, trust=True, again=again)
        self._swap(slot, served)
        report.loaded.append(_key(served))

    def _with_those_in_use(self, served: ServedModel) -> ServedModel:
        """Return a model with the priors of another version that has the same classes: they stay if its own fail."""
        versions = self._index.get(served.name, {}).values()
        same = (one.priors for one in versions if one.priors and one.manifest.labels == served.manifest.labels)
        return replace(served, priors=next(same, NO_PRIORS))

    async def _with_priors(
        self, key: str, slot: _Slot, served: ServedModel, report: ReloadReport, *, trust: bool, again: bool
    ) -> ServedModel:
        """Return the model with the table beside it where that has changed; the same one where it has not, or fails."""
        poll_s = self._settings.poll_interval_s
        try:
            priors = await asyncio.to_thread(
                slot.priors.reread, slot.path, served.manifest.labels, poll_s=poll_s, trust=trust, again=again
            )
        except PriorsRejected as error:
            stays = "those in use stay" if served.priors else "it has none"
            priors_logger.error("the priors of model %s are refused, %s: %s", key, stays, error)
            self._metrics.reloads.labels("failed").inc()
            report.failed.append({"model": key, "reason": str(error)})
            return served
        if priors is None or not (priors or served.priors):
            return served
        priors_logger.info("model %s has %d priors", key, len(priors))
        return replace(served, priors=priors)

    def _make(self, key: str, slot: _Slot) -> ServedModel:
        """Read, load, warm and check a file; runs in a thread."""
        started = time.monotonic()
        files = read_files(slot.path, self._settings)
        if slot.served is not None and slot.served.files == files.sha256s:
            return slot.served
        check = verify_once if self._once else _verify
        replaces = None if slot.served is None else slot.served.engine
        engine, sha256 = choose(files, self._settings, self._load, check, replaces)
        folder, _, number = key.rpartition("/")
        served = ServedModel(
            folder or engine.manifest.name, number, sha256, engine.manifest, engine, datetime.now(UTC),
            files=files.sha256s,
        )  # fmt: skip
        logger.info(
            "loaded %s/%s (%s) in %s on %s in %.2f s",
            served.name, number, sha256[:12], engine.manifest.precision, engine.provider, time.monotonic() - started,
        )  # fmt: skip
        return served

    def _swap(self, slot: _Slot, served: ServedModel | None) -> None:
        """Replace the model of a slot, or remove it; requests see the one before or the one after."""
        old, slot.served = slot.served, served
        self._reindex()
        if old is not None:
            self._metrics.model_info.remove(*_labels(old))
        if served is not None:
            self._metrics.model_info.labels(*_labels(served)).set(1)
            self._metrics.reloads.labels("ok").inc()
            if served.manifest.novelty is not None:
                self._metrics.serves_novelty(served.name)

    def _keep_or_retire(self, found: set[str], report: ReloadReport, retire: bool) -> None:
        """Keep serving versions whose file is gone, or retire those that others replace."""
        retire = retire and bool(found)  # an empty folder is an outage of the storage
        for key in sorted(set(self._slots) - found, key=by_number):
            slot = self._slots[key]
            if slot.served is not None and not (retire and self._has_successor(slot.served, found)):
                slot.tried = None  # a file that comes back is loaded again
                report.unchanged.append(key)
                continue
            if slot.served is not None:
                logger.info("model %s is gone and no longer served", key)
                self._swap(slot, None)
                report.removed.append(key)
            del self._slots[key]
        self._report_missing(set(self._slots) - found)

    def _has_successor(self, served: ServedModel, found: set[str]) -> bool:
        """Return whether requests are still answered without this model: under its name, or by default."""
        if len(self._index[served.name]) > 1:
            return True
        others = {key.rpartition("/")[0] for key in found} & set(self._index) - {served.name}
        return bool(others) and served.name != self._settings.default_model

    def _report_missing(self, missing: set[str]) -> None:
        """Set the gauge; log which files have gone or come back since the last check."""
        for key in sorted(missing - self._missing, key=by_number):
            logger.warning(
                "the file of model %s is missing; the loaded model is served until POST /admin/reload or SIGHUP", key
            )
        for key in sorted(self._missing & set(self._slots) - missing, key=by_number):
            logger.info("the file of model %s is back", key)
        self._missing = missing
        self._metrics.missing_files.set(len(missing))

    def _reindex(self) -> None:
        index: dict[str, dict[int, ServedModel]] = {}
        for slot in self._slots.values():
            if slot.served is not None:
                index.setdefault(slot.served.name, {})[int(slot.served.version)] = slot.served
        self._index = index

    async def revive(self) -> None:
        """Check that the models still answer, before a lost worker is started again.

        Raises:
            NotReady: one does not.
        """
        for served in self.served():
            try:
                await asyncio.to_thread(self_check, served.engine)
            except WorkerLost as error:
                raise NotReady("The GPU does not answer.") from error


def check_there(settings: Settings) -> None:
    """Raise unless there are files to serve, of the default model and in the precision asked for; loads nothing.

    Raises:
        ModelRejected: there is none; the message names what was found.
    """
    found = scan(settings.model, variant_precision(settings))
    if not found:
        raise ModelRejected(*_why(ReloadReport(), settings.model))
    # A file by itself may be in int8, whatever its name; loading it tells.
    if (
        settings.precision == "int8"
        and settings.model.is_dir()
        and not any(signature.variant or full_path(path, "int8") for path, signature in found.values())
    ):
        raise ModelRejected(f"precision=int8, but no model at {settings.model} has a file VERSION.int8.onnx")
    names = {key.rpartition("/")[0] for key in found}
    if settings.default_model and settings.default_model not in names and settings.model.is_dir():
        raise ModelRejected(_no_default(settings, names))


def _why(report: ReloadReport, model: Path) -> list[str]:
    if report.failed or report.loaded:
        names = [entry["model"] if entry["model"][0] != "/" else str(model) for entry in report.failed]
        return [f"{name}: {entry['reason']}" for name, entry in zip(names, report.failed, strict=True)]
    return [f"no model at {model}: neither an .onnx file nor a folder of NAME/VERSION.onnx"]


def _no_default(settings: Settings, names: Iterable[str]) -> str:
    return f"default_model={settings.default_model}, but the models at {settings.model} are: {', '.join(sorted(names))}"


def _verify(engine: Engine, _: str) -> None:
    verify(engine)


def _key(served: ServedModel) -> str:
    return f"{served.name}/{served.version}"


def _labels(served: ServedModel) -> tuple[str, str, str, str, str]:
    return served.name, served.version, served.sha256, served.engine.provider, served.manifest.precision
