"""The pictures of one subject of a demo, and what the model says of it: as `/explain` answers, view by view."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.contract.marks import read_table
from service.commands.demo.folder import Folder
from service.drawing.fonts import percent
from service.drawing.stack import stack
from service.http.answers import classification, score
from service.http.api.schemas import ExplainOptions
from service.http.explain import draw, question_of
from service.inference.predictor import Prediction, Predictor
from service.inference.served import ServedModel
from service.samples.plates import Plate

MARKS = 3
"""Most marks in words."""
_SIDE = 480
"""Longer side of each picture in a panel, pixels."""
_FALL = 0.1
"""A mark that is seen this much less is missed."""
_TYPICAL = 0.25
"""Share of observers that makes a mark worth naming; of a bird whose female lacks it, half of them see it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A photo, or a plate.

    Attributes:
        name: of its files.
        data: the encoded picture.
        plate: where it is one.
    """

    name: str
    data: bytes
    plate: Plate | None = None


class Painter:
    """Asks the model about subjects and writes their pictures.

    Args:
        folder: of the demo.
        served: the model.
        predictor: from an image to a prediction.
    """

    def __init__(self, folder: Folder, served: ServedModel, predictor: Predictor) -> None:
        self._folder, self._served, self._predictor = folder, served, predictor
        self._marks = MARKS if served.manifest.marks is not None else None

    async def paint(self, subject: Subject) -> dict[str, Any]:
        """Write the pictures of a subject; return its answer, with `files`, `versus` and `repainted`.

        Raises:
            FieldmarkError: the picture cannot be answered.
        """
        options = self._options()
        prediction = await self._predict(subject.data, options)
        answer = self._answer(prediction, options, subject.name)
        pictures = [("why", options, prediction)]
        if (rival := self._rival(subject, prediction)) is not None:
            options = self._options(target=f"class:{prediction.explained_class}", versus=f"class:{rival}")
            contrast = await self._predict(subject.data, options)
            answer["versus"] = score(contrast, rival) | {
                name: found
                for name, found in self._answer(contrast, options, subject.name).items()
                if name in ("marks", "missing")
            }
            pictures.append(("why-not", options, contrast))
        if self._marks is not None:
            pictures.append(("marks", options.model_copy(update={"view": "marks"}), pictures[-1][2]))
        files = [self._folder.write(f"{subject.name}.png", subject.data)] if subject.plate else []
        for ending, options, shown in pictures:
            picture = await draw(shown, options, "image/png", self._predictor)
            files.append(self._folder.write(f"{subject.name}-{ending}.png", picture))
        if subject.plate is not None:
            repainted, more = await self._repaint(subject.name, subject.plate, prediction)
            answer, files = answer | {"repainted": repainted}, files + more
        return answer | {"files": files}

    async def _repaint(self, name: str, plate: Plate, before: Prediction) -> tuple[dict[str, Any], list[str]]:
        """Write the plate with its mark repainted, and beside it the original; return the answer and the files."""
        data = plate.picture(repainted=True)
        options = self._options(target=f"class:{before.explained_class}")
        after = await self._predict(data, options)
        answer = self._answer(after, options, f"{name}-repainted.png")
        answer["before"] = score(before, before.explained_class)
        answer["after"] = score(after, before.explained_class)
        answer["missed"] = _missed(before, after)
        first = answer["predictions"][0]
        words = f"Its {plate.mark} painted {plate.paint}: now {first['label']} ({percent(first['probability'])}). "
        pictures = [
            (f"As drawn: {answer['before']['label']}", await draw(before, options, "image/png", self._predictor)),
            (words + missed_words(answer["missed"]), await draw(after, options, "image/png", self._predictor)),
        ]
        beside = await asyncio.to_thread(stack, pictures)
        files = [
            self._folder.write(f"{name}-repainted.png", data),
            self._folder.write(f"{name}-beside.png", beside),
        ]
        return answer, files

    def _options(self, target: str = "rank:1", versus: str | None = None) -> ExplainOptions:
        return ExplainOptions(view="panel", target=target, versus=versus, marks=self._marks, size=_SIDE)

    async def _predict(self, data: bytes, options: ExplainOptions) -> Prediction:
        question = question_of(options, self._served.manifest)
        return await self._predictor.predict(self._served, data, question, lane="explain", keep_image=True)

    def _answer(self, prediction: Prediction, options: ExplainOptions, name: str) -> dict[str, Any]:
        found = classification(prediction, options, filename=name, request_id="")
        return {name: value for name, value in found.items() if name not in ("request_id", "model", "filename")}

    def _rival(self, subject: Subject, prediction: Prediction) -> int | None:
        """Return the class that a subject is contrasted with: a plate's look-alike, else the second likeliest."""
        labels, best = self._served.manifest.labels, prediction.explained_class
        if subject.plate is not None and subject.plate.rival in labels:
            rival = labels.index(subject.plate.rival)
            if rival != best:
                return rival
        others = [index for index in np.argsort(-prediction.probabilities, kind="stable").tolist() if index != best]
        return others[0] if others else None


def _missed(before: Prediction, after: Prediction) -> list[dict[str, Any]]:
    """Return the marks of the class that are seen less than before; first those that it misses most."""
    marks = before.served.manifest.marks
    if marks is None or before.marks is None or after.marks is None:
        return []
    table = read_table(marks.table, before.served.manifest.num_classes, marks.num_marks)
    typical = np.nan_to_num(table[before.explained_class])
    fall = before.marks - after.marks
    best = np.argsort(-fall * (typical >= _TYPICAL), kind="stable")[:MARKS].tolist()
    return [
        {"name": marks.marks[index].name, "before": float(before.marks[index]), "after": float(after.marks[index])}
        for index in best
        if fall[index] >= _FALL and typical[index] >= _TYPICAL
    ]


def missed_words(missed: list[dict[str, Any]]) -> str:
    """Return the marks that are seen less, for people; empty for none."""
    shares = [f"{one['name']} {one['before']:.0%} → {one['after']:.0%}" for one in missed]
    return f"Seen less: {', '.join(shares)}." if shares else ""
