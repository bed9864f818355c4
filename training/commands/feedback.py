"""What users say of a service's answers: its file of feedback → accuracy as confirmed by them.

The file is that of `service/feedback.py`: JSON lines, of which a crash may have cut some. Who sends feedback is no
random sample of those who ask: the intervals are of these users' photos, not of all.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ValidationError

from model.contract.labels import label_fault
from model.terminal import plain
from training.errors import TrainingError
from training.evaluation.figures import Figure, share

MOST_LINES = 1_000_000
MOST_LINE_BYTES = 64 * 1024
SHOWN = 20
"""Most numbers of damaged lines, and most classes, that are printed for people."""


def _printable(text: str) -> str:
    if fault := label_fault(text):
        raise ValueError(fault)
    return text


Printable = Annotated[str, AfterValidator(_printable)]
"""Anybody may have written a file: what a terminal would act on is no label of a model."""


class Said(BaseModel):
    """A line of the file: what a user said of an answer."""

    request_id: str
    image: int
    label: Printable | None
    predicted: Printable
    known: bool | None
    model: Printable
    version: Printable

    @property
    def is_right(self) -> bool:
        """Whether the user names the class that was answered."""
        return self.label == self.predicted


@dataclass(frozen=True)
class Confirmed:
    """What a file of feedback holds.

    Attributes:
        path: of the file.
        said: the last word on each answer.
        replaced: earlier words on the same answers.
        damaged: numbers of the lines that are no feedback, from 1.
    """

    path: Path
    said: list[Said]
    replaced: int
    damaged: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Return every figure, for a program."""
        models = sorted({(one.model, one.version) for one in self.said})
        return {
            "feedback": str(self.path),
            "answers": len(self.said),
            "replaced": self.replaced,
            "damaged_lines": self.damaged,
            **_figures(self.said),
            "by_known": {
                name: _figures([one for one in self.said if one.known is known])
                for name, known in (("known", True), ("unknown", False))
            },
            "by_model": {
                f"{name}/{version}": _figures([one for one in self.said if (one.model, one.version) == (name, version)])
                for name, version in models
            },
            "by_class": self.by_class(),
        }

    def by_class(self) -> list[dict[str, Any]]:
        """Return the classes that users name, most photos first, each with what it was most often taken for."""
        found = []
        for label, count in Counter(one.label for one in self.said if one.label is not None).most_common():
            of_class = [one for one in self.said if one.label == label]
            mistakes = Counter(one.predicted for one in of_class if not one.is_right).most_common(1)
            found.append(
                {
                    "label": label,
                    "n": count,
                    "right": share([one.is_right for one in of_class]).to_dict(),
                    "taken_for": mistakes[0][0] if mistakes else None,
                }
            )
        return found


def _figures(said: list[Said]) -> dict[str, Any]:
    """Return shares with their intervals: right of the photos of some class, right of all, none of the classes."""
    of_a_class = [one for one in said if one.label is not None]
    return {
        "top1": share([one.is_right for one in of_a_class]).to_dict(),
        "right": share([one.is_right for one in said]).to_dict(),
        "none": share([one.label is None for one in said]).to_dict(),
    }


def report(options: argparse.Namespace) -> int:
    """Print the figures of `--feedback`; the exit status.

    Raises:
        TrainingError: there is a model to evaluate besides, or neither it nor feedback, or no feedback in the file.
        OSError: the file cannot be read.
    """
    if not options.feedback:
        raise TrainingError("give RUN|FILE.onnx and --data DIR, or --feedback FILE")
    if options.model or options.data:
        raise TrainingError("--feedback FILE stands alone: it has the answers of the model in it")
    confirmed = read_feedback(options.feedback)
    text = json.dumps(confirmed.to_dict(), indent=2) + "\n" if options.json else as_text(confirmed)
    sys.stdout.write(text)
    return 0


def read_feedback(path: Path) -> Confirmed:
    """Read a file of feedback; the last word on an answer counts.

    Args:
        path: of the file.

    Raises:
        TrainingError: it holds no feedback, or too many lines.
        OSError: it cannot be read.
    """
    last: dict[tuple[str, int], Said] = {}
    replaced, damaged = 0, []
    for number, line in _lines(path):
        try:
            said = Said.model_validate_json(line)
        except ValidationError:
            damaged.append(number)
            continue
        key = said.request_id, said.image
        replaced += key in last
        last[key] = said
    if not last:
        raise TrainingError(f"{path}: no line of it is feedback as `fieldmark serve --feedback-file` writes it")
    return Confirmed(path, list(last.values()), replaced, damaged)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, with their numbers; one that is too long is cut, and so is no JSON."""
    with path.open("rb") as file:
        for number in range(1, MOST_LINES + 2):
            line = file.readline(MOST_LINE_BYTES)
            if not line:
                return
            if number > MOST_LINES:
                raise TrainingError(f"{path}: more than {MOST_LINES:,} lines")
            is_cut = len(line) == MOST_LINE_BYTES and not line.endswith(b"\n")
            while is_cut and (rest := file.readline(MOST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            if line.strip():
                yield number, b"" if is_cut else line


def as_text(confirmed: Confirmed) -> str:
    """Return the figures for people."""
    found = confirmed.to_dict()
    lines = [f"{found['answers']} answers with feedback, {found['replaced']} earlier words on them replaced"]
    if numbers := confirmed.damaged:
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        lines.append(f"damaged lines left out ({len(numbers)}): {', '.join(map(str, numbers[:SHOWN]))}{more}")
    lines += _rows("", found)
    for name, figures in {**found["by_known"], **(found["by_model"] if len(found["by_model"]) > 1 else {})}.items():
        if figures["right"]["n"]:
            lines += [f"answered as {name}:" if name in found["by_known"] else f"{name}:", *_rows("  ", figures)]
    classes = found["by_class"]
    lines += [f"by class, as users name it ({len(classes)}):"] if classes else []
    for one in classes[:SHOWN]:
        taken = f", else mostly taken for {one['taken_for']}" if one["taken_for"] else ""
        lines.append(f"  {one['label']}: {_shown(one['right'])}{taken}")
    lines += [f"  and {len(classes) - SHOWN} more, in --json"] if len(classes) > SHOWN else []
    return "".join(f"{plain(line)}\n" for line in lines)


def _rows(indent: str, figures: dict[str, Any]) -> list[str]:
    names = {"top1": "right, of photos of a class", "right": "right, of all", "none": "none of the classes"}
    return [f"{indent}{words:<28}{_shown(figures[name])}" for name, words in names.items()]


def _shown(figure: dict[str, Any]) -> str:
    if not figure["n"]:
        return "no photo"
    value = Figure(**figure)
    return f"{value.value:.1%} ({value.low:.1%} … {value.high:.1%}) of {value.n}"
