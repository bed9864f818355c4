"""`fieldmark classify` and `fieldmark explain`: the service's results without a server."""

import asyncio
import json
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.files import WriteError, check_target, write_whole
from model.terminal import one_line, plain
from service.commands.running import PICTURE_TYPES, predict, started, stated
from service.decision.beliefs import Belief
from service.drawing.fonts import percent
from service.errors import EmptyInput, FieldmarkError, InvalidOption, MalformedRequest
from service.http.answers import RANKS, classification, individual_answer, mark_note, mark_shares, score, unlike_all
from service.http.api.schemas import ClassifyOptions, ExplainOptions, PhotosOptions
from service.http.explain import DRAWN_MARKS, draw, explanation, question_of
from service.inference.engine import Question
from service.inference.predictor import Prediction, Predictor
from service.inference.served import ServedModel
from service.inference.targets import check_contrast, marks_of
from service.settings import Settings

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BAR = 20
"""Characters of a bar for the probability 1."""


def classify(photos: Sequence[str], options: PhotosOptions, settings: Settings, *, as_json: bool) -> int:
    """Print the classes of photos in their order; returns the exit code, 1 where a photo could not be classified."""
    return asyncio.run(_classify(photos, options, settings, as_json))


def explain(photo: str, out: Path, options: ExplainOptions, settings: Settings, *, as_json: bool) -> int:
    """Write the explanation of a photo as a picture and describe it; returns the exit code."""
    return asyncio.run(_explain(photo, out, options, settings, as_json))


async def _classify(photos: Sequence[str], options: PhotosOptions, settings: Settings, as_json: bool) -> int:
    async with started(settings) as runtime:
        served, predictor = runtime.models.get(options.model, options.version), runtime.predictor
        at_once = asyncio.Semaphore(2 * served.engine.concurrency * served.engine.max_batch_size)
        if options.marks is not None:
            marks_of(served.manifest)
        question = Question.about(served.manifest, marks=RANKS if options.marks else ())
        belief = stated(options, served)
        jobs = [
            asyncio.ensure_future(_one(photo, options, served, question, belief, predictor, at_once))
            for photo in photos
        ]
        results, predictions = [], []
        for photo, job in zip(photos, jobs, strict=True):
            result, prediction = await job
            results.append(result)
            predictions += [prediction] if prediction is not None else []
            if not as_json:
                _print_result(photo, result, served.manifest.num_classes)
    if options.individual and predictions:
        whole = individual_answer(predictions, results, options, uuid.uuid4().hex, belief)
        if as_json:
            _print_json(whole)
        else:
            _print_classes(f"all of one individual: {len(predictions)} photos", whole, served.manifest.num_classes)
    elif as_json:
        _print_json(results[0] if len(results) == 1 else {"results": results})
    return int(any("code" in result for result in results))


async def _one(
    photo: str,
    options: ClassifyOptions,
    served: ServedModel,
    question: Question,
    belief: Belief | None,
    predictor: Predictor,
    at_once: asyncio.Semaphore,
) -> tuple[dict[str, Any], Prediction | None]:
    """Return a photo's result, or its problem, so that one bad photo does not stop the others."""
    request_id = uuid.uuid4().hex
    by_rank = options.marks is not None
    async with at_once:
        try:
            data = await asyncio.to_thread(read, photo)
            prediction = await predict(predictor, served, data, question, belief, by_rank=by_rank)
        except FieldmarkError as error:
            from service.http.problems import problem_document

            return {**problem_document(error, request_id=request_id), "filename": Path(photo).name}, None
    name = Path(photo).name
    return classification(prediction, options, filename=name, request_id=request_id, belief=belief), prediction


async def _explain(photo: str, out: Path, options: ExplainOptions, settings: Settings, as_json: bool) -> int:
    media_type = PICTURE_TYPES.get(out.suffix.lower())
    if media_type is None:
        raise InvalidOption(f"{out}: the name must end in {', '.join(PICTURE_TYPES)}.")
    if options.view == "marks" and options.marks is None:
        options = options.model_copy(update={"marks": DRAWN_MARKS})
    check_target(out)
    if not out.parent.is_dir():
        raise WriteError(out, OSError("No such file or directory: its folder"))
    try:
        data = read(photo)
    except FieldmarkError as error:
        raise type(error)(f"{photo}: {error.detail}") from error
    async with started(settings) as runtime:
        served, predictor = runtime.models.get(options.model, options.version), runtime.predictor
        question = question_of(options, served.manifest)
        belief = stated(options, served)
        prediction = await predict(
            predictor, served, data, question, belief, by_rank=True, lane="explain", keep_image=True
        )
        check_contrast(prediction)
        picture = await draw(prediction, options, media_type, predictor)
        head = classification(
            prediction, options, filename=Path(photo).name, request_id=uuid.uuid4().hex, belief=belief
        )
        # The layers are for web pages; here the picture is a file.
        shown = await explanation(head, prediction, options.model_copy(update={"size": 16}), predictor)
    write_whole(out, picture)
    for name in ("gradcam", "gradcam_versus", "attention", "mark"):
        if shown.get(name):
            del shown[name]["png"]
    if as_json:
        _print_json({**shown, "picture": str(out)})
        return 0
    target = score(prediction, prediction.explained_class)
    against = f", not {shown['versus']['label']}" if "versus" in shown else ""
    of_mark = f"{shown['mark']['name']}, " if "mark" in shown else ""
    _print_line(f"{out}: {options.view} of {of_mark}{target['label']}{against} ({percent(target['probability'])})")
    if not shown.get("known", True):
        _print_line(f"  {unlike_all(served.manifest.num_classes)}; the nearest: {shown['predictions'][0]['label']}")
    _print_set(shown)
    _print_marks(shown)
    for name, kind in (("gradcam", "Grad-CAM"), ("attention", "attention")):
        if shown.get(name) and shown[name].get("note"):
            _print_line(f"{kind}: {shown[name]['note']}")
    return 0


def _print_set(result: dict[str, Any]) -> None:
    """Print the set of an answer that has one, and its lowest common taxon."""
    if "set" in result:
        common = ""
        if "taxon" in result and len(result["set"]) > 1:
            common = "; no common taxon" if result["taxon"] is None else "; {rank} {name}".format(**result["taxon"])
        _print_line(f"  set: {', '.join(result['set'])}{common}")


def _print_marks(result: dict[str, Any]) -> None:
    """Print the marks of an answer that has them: the one named, those seen with their place, then missing ones."""
    versus = result.get("versus", {}).get("label", "")
    named = [result["mark"]] if "mark" in result else []
    for mark in (*named, *result.get("marks", ())):
        at = "at {:.0f}, {:.0f}".format(*mark["at"]) if mark.get("at") else ""
        said = "; ".join(filter(None, (mark_shares(mark, versus), at, mark_note(mark))))
        _print_line(f"  {mark['name']}: {said}")
    for mark in result.get("missing", ()):
        _print_line(f"  missing: {mark['name']}: {mark_shares(mark, versus)}")


def read(photo: str) -> bytes:
    """Return a photo's bytes; `-` is the standard input.

    Raises:
        MalformedRequest: there is no such file, it cannot be read, or it is an address.
        EmptyInput: it has no bytes.
    """
    if _ADDRESS.match(photo):
        raise MalformedRequest("This is an address: fetch it first, as by `curl -L ADDRESS | fieldmark classify -`.")
    try:
        data = sys.stdin.buffer.read() if photo == "-" else Path(photo).read_bytes()
    except (OSError, ValueError) as error:
        raise MalformedRequest(f"{getattr(error, 'strerror', None) or error}.") from error
    if not data:
        raise EmptyInput("The file is empty.")
    return data


def _print_result(photo: str, result: dict[str, Any], num_classes: int) -> None:
    if "code" in result:
        print(one_line(f"{photo}: {result['detail']}"), file=sys.stderr, flush=True)  # noqa: T201 - an error of the command
        for label in result.get("nearest", ()):
            print(f"  {label}", file=sys.stderr)  # noqa: T201
        return
    _print_classes(f"{photo}  {result['width']}×{result['height']}", result, num_classes)
    _print_marks(result)


def _print_classes(head: str, result: dict[str, Any], num_classes: int) -> None:
    accepted = {True: "", False: "  none of these", None: ""}[result.get("accepted")]
    unlike = "" if result.get("known", True) else f"  {unlike_all(num_classes)}; the nearest:"
    _print_line(f"{head}{accepted}{unlike}")
    for found in result["predictions"]:
        bar = "█" * round(found["probability"] * _BAR)
        _print_line(f"  {found['probability']:7.2%}  {bar:{_BAR}}  {found['label']}")
    _print_set(result)


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False), flush=True)  # noqa: T201 - the command's result


def _print_line(line: str) -> None:
    """Print a line of the result; flushed, so that a pipe shows progress."""
    print(plain(line), flush=True)  # noqa: T201 - the command's result
