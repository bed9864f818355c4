"""`fieldmark demo [DIR] [PHOTO…]`: the pictures into a folder, what was seen in words, and what to try next."""

import asyncio
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.terminal import one_line, plain
from service.commands.demo.folder import Folder, names_of
from service.commands.demo.pictures import Painter, Subject, missed_words
from service.commands.photos import read
from service.commands.running import started
from service.drawing.fonts import percent
from service.errors import FieldmarkError
from service.inference.served import ServedModel
from service.samples.plates import PLATES, Plate
from service.settings import BUNDLED_MODEL, Settings

_FILES = {
    "": "the plate",
    "-why": "where the model looks, and what speaks for the class",
    "-why-not": "what speaks for it and not for its look-alike",
    "-marks": "its field marks, in words and in place",
    "-repainted": "the plate with one mark repainted",
    "-beside": "the plate above the repainted one: what class and map do when one mark is gone",
}


def demo(folder: Path, photos: Sequence[str], settings: Settings, *, as_json: bool) -> int:
    """Write the pictures of the plates, or of photos, and describe them; returns the exit code.

    Args:
        folder: to write, made where it is missing.
        photos: their paths; none for the plates.
        settings: model and device.
        as_json: print the answers as JSON.
    """
    return asyncio.run(_demo(Folder(folder), photos, settings, as_json))


async def _demo(folder: Folder, photos: Sequence[str], settings: Settings, as_json: bool) -> int:
    async with started(settings) as runtime:
        served = runtime.models.get()
        sources = _sources(photos)
        folder.begin([f"{name}{ending}.png" for name, _ in sources for ending in _FILES])
        if not as_json:
            _print(_introduction(served, with_plates=not photos))
        results, failed = {}, False
        painter = Painter(folder, served, runtime.predictor)
        for name, source in sources:
            try:
                data = source.picture() if isinstance(source, Plate) else await asyncio.to_thread(read, source)
                plate = source if isinstance(source, Plate) else None
                results[name] = await painter.paint(Subject(name, data, plate))
            except FieldmarkError as error:
                failed = True
                print(one_line(f"{source}: {error.detail}"), file=sys.stderr, flush=True)  # noqa: T201
                continue
            if not as_json:
                _print(_words(name, results[name], plate))
        files = [name for result in results.values() for name in result["files"]]
        folder.finish(files, {"model": served.name, "version": served.version, "results": results})
    if as_json:
        print(json.dumps({"folder": str(folder.path), "results": results}, indent=2, ensure_ascii=False))  # noqa: T201
    elif results:
        _print(_next(folder.path, results, settings, with_plates=not photos))
    return int(failed)


def _sources(photos: Sequence[str]) -> list[tuple[str, str | Plate]]:
    """Return what is looked at, with the names of its files."""
    if photos:
        return list(zip(names_of(photos), photos, strict=True))
    return [(plate.name, plate) for plate in PLATES]


def _introduction(served: ServedModel, *, with_plates: bool) -> list[str]:
    lines = [f"Model {served.name}, version {served.version}: {served.manifest.num_classes} classes."]
    if with_plates:
        lines.append("The plates are drawings made for fieldmark, no photos: they show what its pictures mean.")
        if unknown := [plate.label for plate in PLATES if plate.label not in served.manifest.labels]:
            lines.append(f"This model does not know {', '.join(unknown)}; read its answers with that in mind.")
    return lines


def _words(name: str, answer: dict[str, Any], plate: Plate | None) -> list[str]:
    """Return what was seen in a subject."""
    first = answer["predictions"][0]
    unknown = "; the model calls it unknown, unlike its training photos" if answer.get("known") is False else ""
    lines = ["", f"{name}: {first['label']} ({percent(first['probability'])}){unknown}"]
    lines += _mark_lines("seen", answer)
    if versus := answer.get("versus"):
        lines += _mark_lines(f"rather than {versus['label']}", versus)
    if plate is not None:
        after = answer["repainted"]
        now, before, share = after["predictions"][0], after["before"], after["after"]["probability"]
        stays = now["label"] == before["label"]
        falls = "" if stays else f"; {before['label']} {percent(before['probability'])} → {percent(share)}"
        unknown = ", called unknown" if after.get("known") is False else ""
        said = f"{'still' if stays else 'now'} {now['label']} ({percent(now['probability'])}){unknown}{falls}"
        lines.append(f"  its {plate.mark} painted {plate.paint}: {said}")
        lines += [f"    {words}" for words in [missed_words(after["missed"])] if words]
    return lines


def _mark_lines(title: str, answer: dict[str, Any]) -> Iterable[str]:
    """Return a line of the marks that are seen, where the model has marks."""
    if "marks" in answer:
        seen = [f"{mark['name']} ({mark['seen']:.0%})" for mark in answer["marks"]]
        yield f"  {title}: {', '.join(seen) or 'no field mark is seen'}"


def _next(folder: Path, results: dict[str, Any], settings: Settings, *, with_plates: bool) -> list[str]:
    """Return what was written, and what to try next."""
    written = [ending for ending in _FILES if any(f"{name}{ending}.png" in results[name]["files"] for name in results)]
    width = max(len(ending) for ending in written) + len("NAME.png  ")
    model = "" if settings.model == BUNDLED_MODEL else f" --model {shlex.quote(str(settings.model))}"
    name, answer = next(iter(results.items()))
    lines = ["", f"In {folder}, for each:"]
    lines += [f"  {f'NAME{ending}.png':{width}}{_FILES[ending]}" for ending in written]
    lines += ["", "Next:"]
    if with_plates:
        versus = f" --versus {shlex.quote(answer['versus']['label'])}" if "versus" in answer else ""
        plate = shlex.quote(str(folder / f"{name}.png"))
        lines.append(f"  fieldmark explain {plate}{versus} -o why.png{model}")
        lines.append(f"  fieldmark demo {shlex.quote(f'{folder}-of-mine')} PHOTO...{model}")
    else:
        lines.append(f"  fieldmark explain PHOTO --versus LABEL -o why.png{model}")
    lines.append(f"  fieldmark serve{model}, then open http://{settings.host}:{settings.port}/")
    return lines


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(plain(line), flush=True)  # noqa: T201 - the command's result
