"""The field marks of a prediction: which are seen, how typical they are of a class, and where they were read."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.contract.graph import LAST_LAYER
from model.contract.manifest import Mark, Marks
from model.contract.marks import evidence, read_table
from model.contract.placing import Centres, at_centres
from service.inference.predictor import Prediction

TYPICAL = 0.5
"""A mark is typical of a class where at least this share of observers sees it on the class."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FoundMark:
    """A mark of one prediction.

    Attributes:
        index: of the mark in the manifest.
        mark: its words.
        seen: calibrated probability that it is seen.
        typical: share of observers who see it on the explained class; None where nobody said.
        typical_versus: likewise on the class that it is contrasted with; None without a contrast, too.
        at: where it is read, (x, y) in the original photo's pixels; None where its place is not known.
        evidence: how much more of the class's map lies where the mark is read than chance would put there, 1 is chance;
            None where that is not known.
        map: where it is read, ≥ 0, (h, w) on a regular grid over the network's input; None where it was not requested.
    """

    index: int
    mark: Mark
    seen: float
    typical: float | None
    typical_versus: float | None
    at: tuple[float, float] | None = None
    evidence: float | None = None
    map: Floats | None = None


class MarkReader:
    """Reads the marks of one prediction that speak for the first class that it explains.

    Args:
        prediction: of a model with marks; its question asked for their maps.
        marks: of the model.
    """

    def __init__(self, prediction: Prediction, marks: Marks) -> None:
        asked = prediction.question.mark
        if asked is None or prediction.marks is None or prediction.mark_maps is None or prediction.marked is None:
            raise ValueError("the prediction has no marks")
        self._prediction, self._marks, self._codes = prediction, marks, asked[0].tolist()
        self._seen, self._maps, self._marked = prediction.marks, prediction.mark_maps, prediction.marked.tolist()
        table = _table(marks.table, prediction.served.manifest.num_classes, marks.num_marks)
        self._typical = table[prediction.explained_class]
        self._versus = None if prediction.versus_class is None else table[prediction.versus_class]
        # The graph ranks an unknown share as none; in words, what nobody said of one class cannot distinguish it.
        self._gains = np.nan_to_num(self._typical if self._versus is None else self._typical - self._versus)
        self._evidence_map = None
        if prediction.question.layer == LAST_LAYER:
            side = prediction.served.manifest.input_size
            self._evidence_map = _on_grid(prediction.gradcam[0], marks.grid, prediction.centres(LAST_LAYER), side)

    def at_slot(self, slot: int) -> FoundMark:
        """Return the mark of one of the requested maps."""
        index, values = self._marked[slot], self._maps[slot]
        if not self._marks.marks[index].located:
            return self._found(index, values)
        share = None if self._evidence_map is None else evidence(self._evidence_map, values)
        return self._found(index, values, self._place(values), share)

    def seen(self, count: int) -> list[FoundMark]:
        """Return the marks that are seen and speak for the class, in the order of the graph's ranks.

        Args:
            count: most marks.
        """
        slots = [
            slot
            for slot, (code, index) in enumerate(zip(self._codes, self._marked, strict=True))
            if code == -1 - slot  # the mark of a rank, in the order of the ranks
            and index < self._marks.num_marks
            and self._seen[index] >= self._marks.seen
            and self._gains[index] > 0
        ]
        return [self.at_slot(slot) for slot in slots[:count]]

    def missing(self, count: int) -> list[FoundMark]:
        """Return marks that are typical of the class and not seen; first those that distinguish it best.

        Args:
            count: most marks.
        """
        is_typical = np.nan_to_num(self._typical) >= TYPICAL
        found = np.flatnonzero(is_typical & (self._seen < self._marks.seen) & (self._gains > 0))
        best = found[np.argsort(-self._gains[found], kind="stable")][:count]
        return [self._found(index) for index in best.tolist()]

    def _found(
        self,
        index: int,
        values: Floats | None = None,
        at: tuple[float, float] | None = None,
        share: float | None = None,
    ) -> FoundMark:
        typical = _known(self._typical[index])
        versus = None if self._versus is None else _known(self._versus[index])
        return FoundMark(index, self._marks.marks[index], float(self._seen[index]), typical, versus, at, share, values)

    def _place(self, values: Floats) -> tuple[float, float] | None:
        """Return where a map is highest, in the original photo's pixels."""
        if not values.max() > 0:
            return None
        rows, columns = values.shape
        row, column = divmod(int(values.argmax()), columns)
        prediction = self._prediction
        box = prediction.served.manifest.resize.source_box(prediction.width, prediction.height)
        left, top, right, bottom = box
        return left + (column + 0.5) / columns * (right - left), top + (row + 0.5) / rows * (bottom - top)


def _known(share: np.float32) -> float | None:
    return None if np.isnan(share) else float(share)


def _on_grid(values: Floats, grid: tuple[int, int], centres: Centres | None, side: int) -> Floats:
    """Return a class's map on the grid of the marks, (h, w): bilinear between its cells, as it is drawn.

    Args:
        values: of the cells, (h, w).
        grid: rows and columns.
        centres: where the cells look; None for side by side.
        side: of the network's input, pixels.
    """
    if centres is not None:
        values = at_centres(values[None], centres, side)[0]
    shown = Image.fromarray(np.ascontiguousarray(values)).resize(grid[::-1], Image.Resampling.BILINEAR)
    return np.asarray(shown, dtype=np.float32)


@lru_cache(maxsize=16)
def _table(text: str, num_classes: int, num_marks: int) -> Floats:
    return read_table(text, num_classes, num_marks)
