"""`fieldmark classify` and `explain` of many photos."""

import asyncio
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from model.files import check_folder
from model.terminal import one_line, plain, reason_of
from service.commands.folder import camtrap
from service.commands.folder.camtrap import Deployment, Package, deployment_of, facts_of, write_package
from service.commands.folder.given import Given
from service.commands.folder.job import Answering, Job, Stop
from service.commands.folder.names import to_text
from service.commands.folder.pictures import ROWS, explaining
from service.commands.folder.progress import Progress
from service.commands.folder.reading import Reader
from service.commands.folder.remote import is_address
from service.commands.folder.sources import Photo, Sources, places
from service.commands.folder.table.columns import Column, columns_of, row_of
from service.commands.folder.table.header import Header
from service.commands.folder.table.opening import Table, check_output, format_of, opened
from service.commands.folder.table.printed import Printed
from service.commands.running import PICTURE_TYPES, predict, started, stated
from service.errors import InvalidOption
from service.http.answers import RANKS, Answer, classification, model_id
from service.http.api.schemas import ClassifyOptions, ExplainOptions, PhotosOptions
from service.http.explain import DRAWN_MARKS
from service.inference.engine import Question
from service.inference.predictor import Predictor
from service.inference.served import ServedModel
from service.inference.targets import marks_of
from service.metrics import service_version
from service.settings import Settings

CAMTRAP = "camtrap-dp"


def classify(given: Given, options: PhotosOptions, settings: Settings) -> int:
    """Classify many photos.

    Returns:
        The exit code: 0 all are classified, 1 some are not, 2 refused, 130 interrupted.
    """
    return refusing(_classify(given, options, settings))


def refusing(command: Coroutine[Any, Any, int]) -> int:
    """Run a command; what it refuses is wrong usage, and apart from the exit code of bad photos: 2."""
    try:
        return asyncio.run(command)
    except InvalidOption as error:
        print(f"fieldmark: {one_line(error.detail)}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 2


async def _classify(given: Given, options: PhotosOptions, settings: Settings) -> int:
    if options.individual:
        raise InvalidOption("`--individual` is of a few photos, whose answers are printed.")
    sources = Sources(given.paths, given.files_from)
    sources.check()
    if given.format == CAMTRAP:
        return await _classify_deployment(given, sources, options, settings)
    if given.out is None and given.format is not None:
        raise InvalidOption("`--format` is of a table: `--out` says where to write it.")
    format_ = "" if given.out is None else format_of(given.out, given.format)
    if given.out is not None:
        check_output(given.out, format_)
    with Stop().heard() as stop:
        async with started(settings) as runtime:
            served = runtime.models.get(options.model, options.version)
            answer = classifying(served, runtime.predictor, options)
            if given.out is None:
                return await _run(given, sources, Printed(as_json=given.as_json), answer, served, settings, stop)
            columns = await columns_for(answer, options, served)
            with opened(given.out, format_, header_of(sources, format_, served, options), columns) as table:
                return await _run(given, sources, table, answer, served, settings, stop)


def classifying(served: ServedModel, predictor: Predictor, options: ClassifyOptions) -> Answering:
    """Return what classifies a photo, and gives its row."""
    if options.marks is not None:
        marks_of(served.manifest)
    question, belief = Question.about(served.manifest, marks=RANKS if options.marks else ()), stated(options, served)
    by_rank = options.marks is not None

    async def answer(photo: Photo, data: bytes) -> Answer:
        prediction = await predict(predictor, served, data, question, belief, by_rank=by_rank)
        return row_of(photo.name, classification(prediction, options, filename=None, request_id="", belief=belief))

    return answer


async def _classify_deployment(given: Given, sources: Sources, options: ClassifyOptions, settings: Settings) -> int:
    """Classify the photos of a deployment into a Camtrap DP package."""
    deployment = deployment_of(given.deployment, given.timezone, given.location)
    if given.out is None or is_address(given.out):
        raise InvalidOption("`--format camtrap-dp` needs `--out DIR`, a folder of this machine.")
    folder = Path(given.out)
    check_folder(folder)
    rows = str(folder / camtrap.ROWS)
    if folder.is_dir():
        check_output(rows, "jsonl")
    with Stop().heard() as stop:
        async with started(settings) as runtime:
            served = runtime.models.get(options.model, options.version)
            answer = classifying(served, runtime.predictor, options)
            folder.mkdir(parents=True, exist_ok=True)
            header = header_of(sources, CAMTRAP, served, options)
            header["deployment"] = {"id": given.deployment, "timezone": given.timezone}

            def complete() -> None:
                _report_package(write_package(folder, deployment, model_id(served)), deployment)

            with opened(rows, "jsonl", header, ()) as table:
                return await _run(
                    given, sources, table, answer, served, settings, stop, facts_of(deployment.zone), complete
                )


def _report_package(package: Package, deployment: Deployment) -> None:
    """Name what is not in the tables, on the standard error."""
    for count, names, why in (
        (package.num_untimed, package.untimed, "without a time in EXIF"),
        (package.num_unnamed, package.unnamed, "with a path that Camtrap DP does not allow"),
    ):
        if count:
            more = ", …" if count > len(names) else ""
            text = f"{count:,} photos {why} are in {camtrap.ROWS} alone: {', '.join(names)}{more}"
            print(text, file=sys.stderr)  # noqa: T201 - an error of the command
    if deployment.place is None:
        text = "deployments.csv lacks latitude and longitude, which the standard requires: give --location LAT,LON"
        print(text, file=sys.stderr)  # noqa: T201 - likewise


def explain(given: Given, options: ExplainOptions, settings: Settings) -> int:
    """Write the explanations of many photos as pictures into a folder; returns the exit code, as `classify`."""
    return refusing(_explain(given, str(given.out), options, settings))


async def _explain(given: Given, out: str, options: ExplainOptions, settings: Settings) -> int:
    sources = Sources(given.paths, given.files_from)
    sources.check()
    if is_address(out) or os.path.splitext(out)[1].lower() in PICTURE_TYPES:
        raise InvalidOption(f"{out}: the pictures of many photos go into a folder of this machine.")
    check_folder(Path(out))
    if out == "-":
        raise InvalidOption("-: that is no folder: `-` is the standard input.")
    if places([out]) & places(given.paths):
        raise InvalidOption(f"{out}: that is the folder of the photos; name another.")
    if options.view == "marks" and options.marks is None:
        options = options.model_copy(update={"marks": DRAWN_MARKS})
    table_name = os.path.join(out, ROWS)
    if os.path.isdir(out):
        check_output(table_name, "jsonl")
    with Stop().heard() as stop:
        async with started(settings) as runtime:
            served = runtime.models.get(options.model, options.version)
            answer = explaining(served, runtime.predictor, options, Path(out))
            os.makedirs(out, exist_ok=True)
            with opened(table_name, "jsonl", header_of(sources, "pictures", served, options), ()) as table:
                return await _run(given, sources, table, answer, served, settings, stop)


async def _run(
    given: Given, sources: Sources, table: Table, answer: Answering, served: ServedModel, settings: Settings,
    stop: Stop, facts: Callable[[bytes], Answer] | None = None, complete: Callable[[], None] | None = None,
) -> int:  # fmt: skip
    """Answer all photos, and report how many there are; returns the exit code."""
    unreadable: list[str] = []

    def refuse(name: str, error: OSError) -> None:
        unreadable.append(name)
        print(f"{name}: {reason_of(error)}", file=sys.stderr)  # noqa: T201 - an error of the command

    out = given.out
    own = places([] if out is None else [out, f"{out}.json", f"{out}.parts"])
    progress = Progress()
    count_meanwhile(replace(sources, own=own), progress)
    reader = Reader(
        replace(sources, own=own, refuse=refuse).photos(), table.done, settings.max_decode_bytes, progress, facts
    )
    engine = served.engine
    job = Job(reader, table, answer, 2 * engine.concurrency * engine.max_batch_size, progress, stop)
    try:
        await job.run()
        if not stop:
            table.finish()
            if complete is not None and table.rows:
                complete()
    except BrokenPipeError:
        raise  # `| head` has read enough
    except OSError as error:
        safe = f"; {table.rows:,} photos are safe, and the same command goes on" if out is not None else ""
        raise OSError(f"{reason_of(error)}{safe}") from error
    finally:
        progress.end()
    if not (table.rows or stop):
        raise nothing_found(given, progress)
    report(given, table, progress, unreadable, stop)
    return 128 + stop.signal if stop else int(bool(table.bad or unreadable))


def nothing_found(given: Given, progress: Progress) -> InvalidOption:
    """Return what to say where there is no photo."""
    others = f", and {progress.skipped:,} other files" if progress.skipped else ""
    return InvalidOption(f"{' '.join(map(to_text, given.paths)) or given.files_from}: no photos{others}.")


def report(given: Given, table: Table, progress: Progress, unreadable: Sequence[str], stop: Stop) -> None:
    """Print how many photos there are now."""
    if given.as_json and given.out is not None:
        found = {
            "out": given.out,
            "photos": table.rows,
            "bad": table.bad,
            "other_files": progress.skipped,
            "unreadable_folders": len(unreadable),
            "complete": not stop,
        }
        print(json.dumps(found, ensure_ascii=False), flush=True)  # noqa: T201 - the command's result
        return
    parts = [
        f"{table.rows:,} photo{'s' if table.rows != 1 else ''}",
        f"{table.bad:,} of them bad" if table.bad else "",
        f"{progress.skipped:,} other files" if progress.skipped else "",
        f"{len(unreadable):,} folders that cannot be read" if unreadable else "",
    ]
    text = ", ".join(filter(None, parts))
    if stop:
        text = f"stopped: {text}" + ("" if given.out is None else "; the same command goes on")
    where = sys.stderr if given.out is None else sys.stdout
    print(plain(text if given.out is None else f"{given.out}: {text}"), file=where, flush=True)


def count_meanwhile(sources: Sources, progress: Progress) -> None:
    """Count the photos meanwhile, for the time that is left."""

    def count() -> None:
        with suppress(Exception):  # an error is the reader's to report
            progress.total = sum(1 for _ in sources.photos())

    if sources.can_be_counted:
        threading.Thread(target=count, name="fieldmark-count", daemon=True).start()


def header_of(sources: Sources, format_: str, served: ServedModel, options: ClassifyOptions) -> Header:
    """Return what a table is of."""
    return {
        "fieldmark": service_version(),
        "format": format_,
        "root": sources.root,
        "model": model_id(served),
        "options": options.model_dump(exclude_none=True, mode="json", exclude={"individual"}),
    }


async def columns_for(answer: Answering, options: ClassifyOptions, served: ServedModel) -> tuple[Column, ...]:
    """Return the columns of a run: the answer for a grey picture shows which members its answers have."""
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (128, 128, 128)).save(picture, "PNG")
    sample = await answer(Photo("", "", is_named=True), picture.getvalue())
    return columns_of(sample, options, served.manifest.num_classes)
