"""Maps as transparent layers over the image, with the raw values that their colours hide."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.contract.geometry import Resize
from service.drawing.maps import Floats, ScaledMap, scale_map
from service.drawing.views import render_layer


@dataclass(frozen=True, slots=True)
class MapLayer:
    """One map, drawn.

    Attributes:
        png: data URL of an RGBA picture in the size of the image.
        values: raw, (h, w).
        scaled: what the colours show.
    """

    png: str
    values: Floats
    scaled: ScaledMap


def draw_layers(
    maps: Sequence[Floats], resize: Resize, width: int, height: int, *, colormap: str, size: int | None
) -> list[MapLayer]:
    """Return maps as layers over an image.

    Args:
        maps: raw values, (h, w) each.
        resize: geometry of the model.
        width: of the upright image, pixels.
        height: likewise.
        colormap: name of the colours.
        size: longer side of the layers, pixels; None for the image's.
    """
    scaled = [scale_map(values, resize.crop) for values in maps]
    return [
        MapLayer(render_layer(one, resize, width, height, colormap=colormap, size=size), values, one)
        for values, one in zip(maps, scaled, strict=True)
    ]
