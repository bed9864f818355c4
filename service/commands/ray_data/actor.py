"""What runs in Ray's workers: one actor a core, or a share of a GPU, each with a runtime as a command has.

An actor reads and decodes the photos itself, so that only their names and rows pass through Ray.
"""

import asyncio
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from service.commands.folder.command import classifying
from service.commands.folder.job import Job, Stop
from service.commands.folder.names import to_text
from service.commands.folder.progress import Progress
from service.commands.folder.reading import Reader
from service.commands.folder.sources import Photo
from service.commands.folder.table.columns import CODE, PATH, Column
from service.commands.folder.table.parquet import Parquet
from service.commands.running import started
from service.errors import FieldmarkError, MalformedRequest
from service.http.answers import Answer
from service.http.api.schemas import PhotosOptions
from service.inference.sessions import ModelRejected
from service.metrics import service_version
from service.settings import Settings

UNREAD = "_unread"
"""The column of a batch that is not of the table: which machine could not read a photo, and its place as in a batch."""
_PHOTO_TYPES = {"name": pa.string(), "path": pa.binary(), "is_named": pa.bool_(), "system": pa.int32()}
_UNREAD_TYPE = pa.struct({"machine": pa.string(), **_PHOTO_TYPES})


class WorkerRefused(Exception):
    """A worker cannot take part; the message says which one and why."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of the model, as the command read them.

    Attributes:
        folder: where they are.
        sha256: of each file, by its name below the folder; the model's own is the first.
        content: reference to their bytes, by name, in Ray's object store.
    """

    folder: Path
    sha256: Mapping[str, str]
    content: Any = None


@dataclass(frozen=True)
class Work:
    """What all actors of a run get.

    Attributes:
        version: of fieldmark.
        settings: of the model, device and limits.
        options: of the answers.
        columns: of the rows.
        model: its files.
        places: local files and folders that were given.
        systems: fsspec's, of photos at addresses.
    """

    version: str
    settings: Settings
    options: PhotosOptions
    columns: Sequence[Column]
    model: ModelFiles
    places: Sequence[str]
    systems: Sequence[Any] = ()


@dataclass
class _Rows:
    """The rows of one batch; see `opening.Table`."""

    found: list[Answer] = field(default_factory=list)
    done: set[bytes] = field(default_factory=set)
    rows: int = 0
    bad: int = 0

    def add(self, rows: Sequence[Answer]) -> None:
        """Take rows."""
        self.found += rows

    def sync(self) -> None:
        """Nothing is on a disk."""

    finish = close = remove = sync


class Classifier:
    """Classifies batches of photos.

    What it refuses is raised by its first batch: Ray reports an error of the constructor as text alone, and would
    start the actor again.

    Args:
        work: of the run.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._runner = asyncio.Runner()
        self._running = AsyncExitStack()
        self._refused: WorkerRefused | None = None
        self._format = Parquet(work.columns, {})
        try:
            self._runner.run(self._start())
        except WorkerRefused as error:
            self._refused = error
        except (ModelRejected, FieldmarkError, OSError) as error:
            self._refused = WorkerRefused(f"{socket.gethostname()}: {error}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows of photos, given as `batch_of` writes them; files that are no photos have none."""
        if self._refused is not None:
            raise self._refused
        asked = {row["name"]: row for row in batch.to_pylist()}
        rows = self._runner.run(self._classify(photo_of(row, self._work.systems) for row in asked.values()))
        here = socket.gethostname()
        unread = [
            {"machine": here, **asked[row[PATH]]} if row.get(CODE) == MalformedRequest.code else None for row in rows
        ]
        return self._format.table(rows).append_column(UNREAD, pa.array(unread, _UNREAD_TYPE))

    async def _start(self) -> None:
        work, here = self._work, socket.gethostname()
        if service_version() != work.version:
            raise WorkerRefused(f"{here} has fieldmark {service_version()}, this machine {work.version}.")
        for place in work.places:
            try:
                os.stat(place)
            except OSError as error:
                raise WorkerRefused(
                    f"{here} does not see {to_text(place)}: {error.strerror}. All machines need the photos at the "
                    "same path, or at an address."
                ) from error
        with tempfile.TemporaryDirectory(prefix="fieldmark-") as folder:
            for name, data in fetch(work.model).items():
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            settings = work.settings.model_copy(update={"model": Path(folder, next(iter(work.model.sha256)))})
            runtime = await self._running.enter_async_context(started(settings))
        served = runtime.models.get()
        self._answer = classifying(served, runtime.predictor, work.options)
        self._at_once = 2 * served.engine.concurrency * served.engine.max_batch_size

    async def _classify(self, photos: Iterator[Photo]) -> list[Answer]:
        rows, progress = _Rows(), Progress()
        reader = Reader(photos, rows.done, self._work.settings.max_decode_bytes, progress)
        await Job(reader, rows, self._answer, self._at_once, progress, Stop()).run()
        return rows.found


def fetch(model: ModelFiles) -> dict[str, bytes]:
    """Return a model's files by name: from its folder where a worker sees it, else from the object store.

    Raises:
        WorkerRefused: they differ from those of the command.
    """
    paths = {name: model.folder / name for name in model.sha256}
    if all(path.is_file() for path in paths.values()):
        place, found = f"at {model.folder}", {name: path.read_bytes() for name, path in paths.items()}
    else:
        place, found = "in Ray's object store", ray.get(model.content)
    for name, sha256 in model.sha256.items():
        here = hashlib.sha256(found[name]).hexdigest()
        if here != sha256:
            raise WorkerRefused(
                f"{socket.gethostname()} has another {name} {place}: its SHA-256 is {here[:12]}… there, {sha256[:12]}… "
                "here."
            )
    return found


def batch_of(photos: Sequence[Photo], systems: list[Any]) -> pa.Table:
    """Return photos as a batch; a path on disk is bytes, which need not be UTF-8.

    Args:
        photos: of it.
        systems: fsspec's; those of the photos are added.
    """
    for photo in photos:
        if photo.system is not None and photo.system not in systems:
            systems.append(photo.system)
    cells = [
        {
            "name": photo.name,
            "path": os.fsencode(_absolute(photo)),
            "is_named": photo.is_named,
            "system": None if photo.system is None else systems.index(photo.system),
        }
        for photo in photos
    ]
    return pa.Table.from_pylist(cells, pa.schema(_PHOTO_TYPES))


def photo_of(row: Answer, systems: Sequence[Any]) -> Photo:
    """Return a photo of a batch."""
    system = None if row["system"] is None else systems[row["system"]]
    return Photo(row["name"], os.fsdecode(row["path"]), row["is_named"], system)


def _absolute(photo: Photo) -> str:
    """Return a photo's path from the root: a worker starts in another folder."""
    return photo.path if photo.system is not None else os.path.join(os.getcwd(), photo.path)
