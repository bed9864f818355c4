"""How a request names a class: a label, `class:7` or `rank:2`; a mark: likewise; and a layer: its name or its index."""

import difflib
import re
import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from model.contract.graph import ranks_of
from model.contract.manifest import Manifest, Marks
from service.errors import InvalidOption, NoMarks, UnknownClass, UnknownMark
from service.inference.predictor import Prediction

NUM_NEAREST = 3
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


def resolve_target(text: str, manifest: Manifest) -> int:
    """Return the graph's code of a class: 0…K−1 a class, −1…−K the class of that rank.

    A label matches exactly, or regardless of case, width and spacing where only one label fits.

    Args:
        text: `class:INDEX` (from 0), `rank:N` (from 1), or a label.
        manifest: of the model.

    Raises:
        UnknownClass: no such class, or several labels fit; `nearest` lists the most similar labels.
    """
    return _resolve(text, manifest.labels, "class", manifest.num_classes, UnknownClass)


def resolve_mark(text: str, manifest: Manifest) -> int:
    """Return the graph's code of a mark: 0…A−1 a mark, −1…−8 the mark of that rank.

    Args:
        text: `mark:INDEX` (from 0), `rank:N` (from 1), or a name, which matches as a class's label does.
        manifest: of the model.

    Raises:
        NoMarks: the model has none.
        UnknownMark: no such mark; `nearest` lists the most similar names.
    """
    marks = marks_of(manifest)
    return _resolve(text, tuple(mark.name for mark in marks.marks), "mark", ranks_of(marks.num_marks), UnknownMark)


def marks_of(manifest: Manifest) -> Marks:
    """Return the marks of a model.

    Raises:
        NoMarks: it has none.
    """
    if manifest.marks is None:
        raise NoMarks(f"The model {manifest.name} has no field marks.")
    return manifest.marks


def resolve_layer(text: str | None, manifest: Manifest) -> int:
    """Return the index of a layer in the manifest.

    A name matches exactly, and before an index: the modules of a plain sequence have numbers for names.

    Args:
        text: name of the layer, or its index in decimal digits; None for the last stage.
        manifest: of the model.

    Raises:
        InvalidOption: no such layer; the detail lists the names.
    """
    if text is None:
        return 0
    names = [layer.name for layer in manifest.layers]
    if text in names:
        return names.index(text)
    return checked_layer(int(text) if _NUMBER.fullmatch(text) else -1, manifest)


def checked_layer(index: int, manifest: Manifest) -> int:
    """Return an index if it is that of a layer in the manifest.

    Raises:
        InvalidOption: no such layer; the detail lists the names.
    """
    if not 0 <= index < len(manifest.layers):
        names = ", ".join(f"`{layer.name}`" for layer in manifest.layers)
        raise InvalidOption(
            f"`layer` is one of {names} in this model, or an index from 0 to {len(manifest.layers) - 1}."
        )
    return index


def check_contrast(prediction: Prediction, what: str = "this image") -> None:
    """Refuse a contrast of a class with itself; with ranks this depends on the image.

    Raises:
        InvalidOption: a target and its versus are the same class.
    """
    versus = prediction.question.versus[0]
    if (versus == prediction.served.manifest.num_classes).all():
        return
    against = classes_of(versus, np.argsort(-prediction.logits, kind="stable"))
    if (against == prediction.explained).any():
        raise InvalidOption(f"`target` and `versus` are the same class of {what}.")


def classes_of(codes: npt.NDArray[np.int64], ranked: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return codes with the ranks replaced by the classes of these ranks.

    Args:
        codes: of the graph.
        ranked: all classes, the likeliest first, (K,).
    """
    return np.where(codes < 0, ranked[np.clip(-codes - 1, 0, len(ranked) - 1)], codes)


_Unknown = type[UnknownClass] | type[UnknownMark]


def _resolve(text: str, names: tuple[str, ...], kind: str, num_ranks: int, unknown: _Unknown) -> int:
    """Return the code of a class or a mark: its index, or the negative of its rank.

    Args:
        text: `KIND:INDEX`, `rank:N` or a name.
        names: of all, in the order of their index.
        kind: `class` or `mark`.
        num_ranks: last rank.
        unknown: raised where the text names none.
    """
    exact, folded = _index_of(names)
    if text in exact:
        return exact[text]
    prefix, colon, digits = text.partition(":")
    if colon and prefix in (kind, "rank"):
        first, last = (0, len(names) - 1) if prefix == kind else (1, num_ranks)
        number = int(digits) if _NUMBER.fullmatch(digits) else -1
        if not first <= number <= last:
            raise unknown(f"`{prefix}:` takes a whole number from {first} to {last}.", extensions={"nearest": []})
        return number if prefix == kind else -number
    fitting = folded.get(_fold(text), [])
    if len(fitting) == 1:
        return fitting[0]
    # Long inputs are cut: the similarity is quadratic in length, and no name is this long.
    similar = fitting or [
        folded[spelling][0]
        for spelling in difflib.get_close_matches(_fold(text[:200]), folded, n=NUM_NEAREST, cutoff=0.4)
    ]
    word = "label" if kind == "class" else "name"
    detail = f"Several {word}s differ from this one by case only." if fitting else f"No {kind} has this {word}."
    raise unknown(detail, extensions={"nearest": [names[index] for index in similar[:NUM_NEAREST]]})


@lru_cache(maxsize=16)
def _index_of(names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return the index of each exact name, and the indices of each folded one."""
    folded: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        folded.setdefault(_fold(name), []).append(index)
    return {name: index for index, name in enumerate(names)}, folded


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("_", " ").split())
