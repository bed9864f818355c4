"""The run on a cluster: names of photos go out in batches, rows come back, and this process writes them.

Ray Data starts the actors, gives each the next batch, and does those of a lost one again. Only this process writes, so
that nothing is written twice and the workers need not see the folder. Names go out in waves, so that neither Ray nor
this process holds those of all photos.

Source: https://docs.ray.io/en/latest/data/batch-inference.html.
"""

import hashlib
import logging
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from model.contract.variant import variant_path
from model.terminal import reason_of
from service.commands.folder.command import (
    classifying,
    columns_for,
    count_meanwhile,
    header_of,
    nothing_found,
    report,
)  # fmt: skip
from service.commands.folder.given import Given
from service.commands.folder.job import Stop
from service.commands.folder.progress import Progress
from service.commands.folder.reading import is_readable
from service.commands.folder.remote import is_address
from service.commands.folder.sources import Photo, Sources, digest, places
from service.commands.folder.table.columns import CODE, DETAIL
from service.commands.folder.table.opening import FILES, Table, opened
from service.commands.ray_data.actor import UNREAD, Classifier, ModelFiles, Work, WorkerRefused, batch_of, photo_of
from service.commands.ray_data.cluster import LOCAL, actors_of, connected, why_failed
from service.commands.ray_data.watch import Watch
from service.commands.running import started
from service.http.api.schemas import PhotosOptions
from service.inference.files.priors import FILE as PRIORS
from service.inference.files.versions import scan
from service.inference.precision import variant_precision
from service.inference.served import ServedModel
from service.metrics import service_version
from service.settings import Settings

_WAVE = 500_000
"""Photos whose names are out at the same time."""
_BATCH = 64
"""Photos of a batch on a core, about a second; with a GPU so many for each place in its own batches."""
_TRIES_AGAIN = 3
"""How often a batch may lose its worker; a photo that takes the memory of any worker ends the run."""
_STARTS_AGAIN = 10
"""How often a worker may be lost in a wave; where only workers themselves are short of memory, each start is a loss."""
_SYNC_S, _TICK_S = 30.0, 0.25
_ENDED = object()


async def run(
    given: Given, sources: Sources, options: PhotosOptions, settings: Settings, address: str, gpus: float
) -> int:
    """Classify all photos that have no row yet, and report how many there are; see `command.classify`."""
    out = str(given.out).rstrip("/")
    here = settings.model_copy(update={"device": "cpu"})  # this machine answers for one picture alone
    async with started(here) as runtime:
        served = runtime.models.get()
        columns = await columns_for(classifying(served, runtime.predictor, options), options, served)
        folder, content = _files_of(served, here)
    if settings.precision == "auto":  # what it means is decided once, not by each machine
        settings = settings.model_copy(update={"precision": served.manifest.precision})
    settings = settings.model_copy(update={"device": "cuda"} if gpus else {"device": "cpu", "cpu_runs": 1})
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    local = [os.path.join(os.getcwd(), path) for path in given.paths if os.path.exists(path)]
    work = Work(service_version(), settings, options, columns, ModelFiles(folder, hashes), local)
    with opened(out, FILES, header_of(sources, FILES, served, options), columns) as table:
        return _Job(given, sources, table, address, gpus).run(work, content)


def _files_of(served: ServedModel, settings: Settings) -> tuple[Path, dict[str, bytes]]:
    """Return the folder of a model's files, and their content by the names in it; the model's own is the first."""
    precision = variant_precision(settings)
    found = scan(settings.model, precision)
    path, _ = found.get(f"{served.name}/{served.version}") or next(iter(found.values()))
    beside = [variant_path(path, precision)] if precision else []
    files = [path, *beside, path.with_name(PRIORS)]
    return path.parent.absolute(), {file.name: file.read_bytes() for file in files if file.is_file()}


class _Job:
    """One run.

    Args:
        given: by the command line.
        sources: of the photos.
        table: where rows go.
        address: of the cluster.
        gpus: of each actor.
    """

    def __init__(self, given: Given, sources: Sources, table: Table, address: str, gpus: float) -> None:
        out = str(given.out)
        if not is_address(out):
            os.makedirs(out, exist_ok=True)  # so that the walk through the photos knows it
        self._given = given
        self._sources = replace(sources, own=places([out, f"{out}.json"]))
        self._table = table
        self._address = address
        self._gpus = gpus
        self._progress = Progress()
        self._unreadable: list[str] = []

    def run(self, work: Work, content: dict[str, bytes]) -> int:
        """Take all photos that have no row; returns the exit code.

        Args:
            work: of the actors.
            content: of the model's files.
        """
        stop, photos = Stop(), self._undone()
        if wave := list(islice(photos, _WAVE)):
            with connected(self._address), stop.heard():
                count_meanwhile(self._sources, self._progress)
                work = replace(work, model=replace(work.model, content=ray.put(content)))
                while wave and not stop:
                    self._take(wave, work, stop)
                    wave = list(islice(photos, _WAVE))
        if not stop:
            self._table.finish()
        if not (self._table.rows or stop):
            raise nothing_found(self._given, self._progress)
        report(self._given, self._table, self._progress, self._unreadable, stop)
        return 128 + stop.signal if stop else int(bool(self._table.bad or self._unreadable))

    def _undone(self) -> Iterator[Photo]:
        """Yield the photos without a row."""

        def refuse(name: str, error: OSError) -> None:
            self._unreadable.append(name)
            print(f"{name}: {reason_of(error)}", file=sys.stderr)  # noqa: T201 - an error of the command

        for photo in replace(self._sources, refuse=refuse).photos():
            if digest(photo.name) in self._table.done:
                self._progress.resume()
            else:
                yield photo

    def _take(self, photos: list[Photo], work: Work, stop: Stop) -> None:
        """Write the rows of photos as they come; when a signal comes, those that are here.

        Raises:
            OSError: the cluster failed, or the table cannot be written; what it has is whole.
        """
        size = _BATCH * (work.settings.max_batch_size if self._gpus else 1)
        systems: list[Any] = []
        batches = [batch_of(photos[start : start + size], systems) for start in range(0, len(photos), size)]
        found_by = self._classified(batches, replace(work, systems=systems))
        rows: queue.Queue[Any] = queue.Queue(maxsize=16)
        ended = threading.Event()
        watch = Watch(self._gpus, self._address != LOCAL, self._report)
        taken, synced = 0, time.monotonic()
        try:
            watch.wait_for_room(stop)
            if not stop:
                threading.Thread(target=_pump, args=(found_by, rows, ended), daemon=True).start()
            watch.heard()
            while not stop:
                self._progress.show()
                if time.monotonic() - synced >= _SYNC_S:
                    self._table.sync()
                    synced = time.monotonic()
                try:
                    found = rows.get(timeout=_TICK_S)
                except queue.Empty:
                    watch.check()
                    continue
                watch.heard()
                if isinstance(found, BaseException):
                    raise found
                if found is _ENDED:
                    self._progress.skipped += len(photos) - taken
                    return
                taken += self._add(found, systems)
        except OSError as error:
            raise self._failed(reason_of(error)) from error
        except Exception as error:
            raise self._failed(why_failed(error)) from error
        finally:
            ended.set()
            self._progress.end()
            self._table.sync()

    def _add(self, rows: Any, systems: list[Any]) -> int:
        """Write a batch's rows; returns how many they are.

        Raises:
            WorkerRefused: a worker could not read a photo that this machine can.
        """
        for row, unread in zip(rows[DETAIL].to_pylist(), rows[UNREAD].to_pylist(), strict=True):
            if unread is not None and is_readable(photo_of(unread, systems)):
                raise WorkerRefused(
                    f"{unread['machine']} cannot read {unread['name']} ({row.rstrip('.').lower()}), which this machine "
                    "can: all machines need the photos at the same path, or at an address"
                )
        self._table.add(rows.drop_columns([UNREAD]))
        bad = rows.num_rows - rows[CODE].null_count
        for index in range(rows.num_rows):
            self._progress.step(is_bad=index < bad)
        return int(rows.num_rows)

    def _classified(self, batches: list[Any], work: Work) -> Iterator[Any]:
        """Yield the rows of batches of photos, a table each, in any order."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.execution_no_progress_timeout_s = -1  # workers may wait for cores that others hold
        for name in ("ray", "ray.data"):  # each import of Ray sets its level anew
            logging.getLogger(name).setLevel(logging.CRITICAL)
        actors, cores = actors_of(self._gpus)
        with warnings.catch_warnings():
            # There is no other way yet to bound how often a batch is tried, which is for ever by default.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            ready = ray.data.from_arrow(batches).map_batches(
                Classifier,
                fn_constructor_args=(work,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(batches))),
                num_cpus=cores,
                num_gpus=self._gpus or None,
                max_task_retries=_TRIES_AGAIN,
                max_restarts=_STARTS_AGAIN,
            )
        yield from ready.iter_batches(batch_size=None, batch_format="pyarrow")

    def _report(self, line: str) -> None:
        self._progress.end()
        print(f"--ray {self._address}: {line}", file=sys.stderr)  # noqa: T201 - of the command

    def _failed(self, why: str) -> OSError:
        self._table.sync()
        safe = f"{self._table.rows:,} photos are safe, and the same command goes on"
        return OSError(f"--ray {self._address}: {why.rstrip('.')}; {safe}")


def _pump(found: Iterator[Any], into: "queue.Queue[Any]", ended: threading.Event) -> None:
    """Pass what is found on, so that who waits for it can also do something else."""
    last: Any = _ENDED
    try:
        for one in found:
            if ended.is_set():
                return
            into.put(one)
    except BaseException as error:
        last = error
    into.put(last)
