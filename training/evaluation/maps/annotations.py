"""What is known of a photo, in pixels of the network's input: box, mask and parts of the object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.contract.geometry import Resize
from training.data.samples import Sample
from training.data.transforms import box_on_input
from training.errors import DatasetError
from training.evaluation.maps.regions import Booleans, Floats, Point, box_of_region, region_of_box


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of one photo.

    Attributes:
        box: around the object, (left, top, right, bottom), clipped to the input; NaN where unknown. Of a mask, where
            there is one.
        mask: pixels of the object, (S, S); None where unknown.
        parts: that are visible and inside the input.
        beyond: parts that are visible on the photo, but outside the input.
        whole: the box as it is on the photo, not clipped, pixels of the input; None: as `box`.
    """

    box: Floats
    mask: Booleans | None
    parts: tuple[Point, ...]
    beyond: tuple[Point, ...] = ()
    whole: Floats | None = None

    def region(self, size: int) -> Booleans | None:
        """Return the object's pixels by mask, else by box, (S, S); None where neither is known or nothing is inside."""
        region = self.mask
        if region is None and np.isfinite(self.box).all():
            region = region_of_box(self.box, size)
        return region if region is not None and region.any() else None


def annotation_of(sample: Sample, size: tuple[int, int], resize: Resize) -> Annotation:
    """Return what is known of a photo on the network's input.

    Args:
        sample: the photo.
        size: (width, height) of the upright photo, pixels.
        resize: geometry between the photo and the input.

    Raises:
        DatasetError: the mask is damaged, or not as large as the photo.
    """
    mask = _mask_on_input(sample, size, resize)
    box = np.full(4, np.nan)
    if mask is not None:
        box = box_of_region(mask) if mask.any() else box
    elif sample.box is not None:
        box = box_on_input(sample.box, size, resize).numpy().astype(np.float64)
    left, top, right, bottom = resize.source_box(*size)
    scale_x, scale_y = resize.crop / (right - left), resize.crop / (bottom - top)
    placed = [Point(part, (x - left) * scale_x, (y - top) * scale_y) for part, x, y in sample.parts]
    inside = tuple(point for point in placed if 0 <= point.x <= resize.crop and 0 <= point.y <= resize.crop)
    whole = None
    if mask is None and sample.box is not None:
        corners = np.array(sample.box) - np.array([left, top, left, top])
        whole = corners * np.array([scale_x, scale_y, scale_x, scale_y])
    return Annotation(box, mask, inside, tuple(point for point in placed if point not in inside), whole)


def boxes_of(annotations: tuple[Annotation, ...]) -> Floats:
    """Return the boxes, (n, 4); NaN where there is none."""
    return np.stack([annotation.box for annotation in annotations]) if annotations else np.zeros((0, 4))


def whole_boxes_of(annotations: Sequence[Annotation]) -> Floats:
    """Return the boxes as they are on the photos, not clipped to the input, (n, 4); NaN where there is none."""
    found = [known.box if known.whole is None else known.whole for known in annotations]
    return np.array(found, dtype=np.float64).reshape(len(found), 4)


def _mask_on_input(sample: Sample, size: tuple[int, int], resize: Resize) -> Booleans | None:
    if sample.mask is None:
        return None
    try:
        with Image.open(sample.mask, formats=("PNG",)) as picture:
            mask = picture.convert("L")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{sample.mask} is damaged or no PNG: {error}") from error
    if mask.size != size:
        raise DatasetError(f"{sample.mask} has {mask.size[0]}×{mask.size[1]} pixels, its photo {size[0]}×{size[1]}")
    side = (resize.crop, resize.crop)
    shown = mask.resize(side, Image.Resampling.NEAREST, box=resize.source_box(*size))
    return np.asarray(shown) > 127
