"""`fieldmark explain` of one photo: the service's picture without a server."""

import asyncio
import os
import uuid
from pathlib import Path

from model.files import WriteError, check_target, write_whole
from service.commands.photos import print_json, print_line, print_marks, print_set, read
from service.commands.running import PICTURE_TYPES, predict, started, stated
from service.drawing.fonts import percent
from service.errors import FieldmarkError, InvalidOption
from service.http.answers import classification, score, unlike_all
from service.http.api.schemas import ExplainOptions
from service.http.explain import DRAWN_MARKS, draw, explanation, question_of
from service.inference.targets import check_contrast
from service.settings import Settings


def explain(photo: str, out: Path, options: ExplainOptions, settings: Settings, *, as_json: bool) -> int:
    """Write the explanation of a photo as a picture and describe it; returns the exit code."""
    return asyncio.run(_explain(photo, out, options, settings, as_json))


async def _explain(photo: str, out: Path, options: ExplainOptions, settings: Settings, as_json: bool) -> int:
    media_type = PICTURE_TYPES.get(out.suffix.lower())
    if media_type is None:
        raise InvalidOption(f"{out}: the name must end in {', '.join(PICTURE_TYPES)}.")
    if options.view == "marks" and options.marks is None:
        options = options.model_copy(update={"marks": DRAWN_MARKS})
    check_target(out)
    if out.exists() and os.path.exists(photo) and out.samefile(photo):
        raise InvalidOption(f"{out}: that is the photo itself; name another picture.")
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
        print_json({**shown, "picture": str(out)})
        return 0
    target = score(prediction, prediction.explained_class)
    against = f", not {shown['versus']['label']}" if "versus" in shown else ""
    of_mark = f"{shown['mark']['name']}, " if "mark" in shown else ""
    print_line(f"{out}: {options.view} of {of_mark}{target['label']}{against} ({percent(target['probability'])})")
    if not shown.get("known", True):
        print_line(f"  {unlike_all(served.manifest.num_classes)}; the nearest: {shown['predictions'][0]['label']}")
    print_set(shown)
    print_marks(shown)
    for name, kind in (("gradcam", "Grad-CAM"), ("attention", "attention")):
        if shown.get(name) and shown[name].get("note"):
            print_line(f"{kind}: {shown[name]['note']}")
    return 0
