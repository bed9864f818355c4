"""Explanations of many photos: a tree of pictures that mirrors the photos, and a row for each."""

import asyncio
import os
from pathlib import Path

from model.files import write_whole
from service.commands.folder.job import Answering
from service.commands.folder.names import from_text
from service.commands.folder.sources import Photo
from service.commands.folder.table.columns import row_of
from service.commands.running import predict, stated
from service.errors import MalformedRequest
from service.http.answers import Answer, classification, score
from service.http.api.schemas import ExplainOptions
from service.http.explain import draw, question_of
from service.inference.predictor import Predictor
from service.inference.served import ServedModel
from service.inference.targets import check_contrast

ROWS = "explained.jsonl"
"""Name of the table in the folder of pictures."""
_LONGEST_NAME, _TEMPORARY = 255, len("..01234567.partial")


def explaining(served: ServedModel, predictor: Predictor, options: ExplainOptions, out: Path) -> Answering:
    """Return what explains a photo: it writes the picture, then gives the row, so that no row lacks its picture."""
    question, belief = question_of(options, served.manifest), stated(options, served)

    async def explain(photo: Photo, data: bytes) -> Answer:
        place = picture_of(photo.name)
        prediction = await predict(predictor, served, data, question, belief, by_rank=True, keep_image=True)
        check_contrast(prediction)
        picture = await draw(prediction, options, "image/png", predictor)
        await asyncio.to_thread(_write, out / place, picture)
        answer = classification(prediction, options, filename=None, request_id="", belief=belief)
        answer["target"] = score(prediction, prediction.explained_class)
        if prediction.versus_class is not None:
            answer["versus"] = score(prediction, prediction.versus_class)
        return row_of(photo.name, answer)

    return explain


def picture_of(name: str) -> str:
    """Return where the picture of a photo is, below the folder of pictures: its own path and `.png`.

    Raises:
        MalformedRequest: the name would be too long.
    """
    parts = [{"..": "_up"}.get(part, part) for part in from_text(name).split("/") if part not in ("", ".")]
    if len(os.fsencode(parts[-1])) + len(".png") + _TEMPORARY > _LONGEST_NAME:
        raise MalformedRequest("The name is too long for that of its picture.")
    return "/".join(parts) + ".png"


def _write(path: Path, picture: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, picture)
