"""How a request names a class: a label, `class:7` or `rank:2`; and a layer: its name or its index."""

import difflib
import re
import unicodedata
from functools import lru_cache

import numpy as np

from model.contract.manifest import Manifest
from service.errors import InvalidOption, UnknownClass
from service.inference.predictor import Prediction

NUM_NEAREST = 3
_CODE = re.compile(r"(class|rank):(.*)", re.DOTALL)
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
    exact, folded = _label_index(manifest.labels)
    if text in exact:
        return exact[text]
    if match := _CODE.fullmatch(text):
        return _resolve_number(match[1], match[2], manifest.num_classes)
    fitting = folded.get(_fold(text), [])
    if len(fitting) == 1:
        return fitting[0]
    # Long inputs are cut: the similarity is quadratic in length, and no label is this long.
    similar = fitting or [
        folded[spelling][0]
        for spelling in difflib.get_close_matches(_fold(text[:200]), folded, n=NUM_NEAREST, cutoff=0.4)
    ]
    nearest = [manifest.labels[index] for index in similar[:NUM_NEAREST]]
    detail = "Several labels differ from this one by case only." if fitting else "No class has this label."
    raise UnknownClass(detail, extensions={"nearest": nearest})


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
    ranked = np.argsort(-prediction.logits, kind="stable")
    against = np.where(versus < 0, ranked[np.clip(-versus - 1, 0, len(ranked) - 1)], versus)
    if (against == prediction.explained).any():
        raise InvalidOption(f"`target` and `versus` are the same class of {what}.")


def _resolve_number(kind: str, digits: str, num_classes: int) -> int:
    first = 0 if kind == "class" else 1
    last = first + num_classes - 1
    number = int(digits) if _NUMBER.fullmatch(digits) else -1
    if not first <= number <= last:
        raise UnknownClass(f"`{kind}:` takes a whole number from {first} to {last}.", extensions={"nearest": []})
    return number if kind == "class" else -number


@lru_cache(maxsize=16)
def _label_index(labels: tuple[str, ...]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return the class of each exact label, and the classes of each folded one."""
    folded: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        folded.setdefault(_fold(label), []).append(index)
    return {label: index for index, label in enumerate(labels)}, folded


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("_", " ").split())
