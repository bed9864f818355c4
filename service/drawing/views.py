"""The views of an explanation: photo and raw maps in, files and layers out."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from model.contract.geometry import Resize
from model.contract.placing import Centres
from model.photo.decode import DecodedImage
from service.drawing.encode import check_size, encode, rgba_png
from service.drawing.maps import Floats, Placement, ScaledMap, heatmap, palette_of, scale_map
from service.drawing.overlay import overlay, picture
from service.drawing.panel import panel
from service.errors import InvalidOption

View = Literal["overlay", "gradcam", "attention", "panel"]


def render_view(
    decoded: DecodedImage,
    resize: Resize,
    *,
    view: View,
    gradcam: npt.ArrayLike | None = None,
    attention: npt.ArrayLike | None = None,
    mark: tuple[str, npt.ArrayLike] | None = None,
    centres: Centres | None = None,
    attention_centres: Centres | None = None,
    caption: str = "",
    question: str = "",
    probability: float | None = None,
    colormap: str = "turbo",
    opacity: float = 0.5,
    size: int | None = None,
    media_type: str = "image/png",
) -> bytes:
    """Return one view as an encoded picture; for a worker thread.

    Args:
        decoded: the photo.
        resize: geometry of the model.
        view: `overlay` (Grad-CAM over the photo), `gradcam` or `attention` (the bare heatmap), or `panel`.
        gradcam: raw map, (h, w); needed by all views but `attention`.
        attention: raw map, (h, w), or None where the model has none; needed by view `attention`.
        mark: name of a field mark and where it is read, (h, w): shown in place of Grad-CAM, in the panel beside it.
        centres: where the cells of Grad-CAM look; None to place them side by side.
        attention_centres: likewise those of the attention.
        caption: the class, for the panel.
        question: the title of the Grad-CAM, for the panel, e.g. `why A and not B`.
        probability: of the class, for the panel, 0 to 1.
        colormap: one of `COLORMAPS`.
        opacity: of the maps over the photo, 0 to 1.
        size: longer side of the picture (in a panel: of each picture), pixels; None: the original's.
        media_type: `image/png`, `image/webp` or `image/jpeg`.

    Raises:
        InvalidOption: no such colormap, or a picture longer than the format can hold.
        TooManyPixels: more than `MAX_DRAWN_PIXELS`.
    """
    if view == "panel":
        longest = size or min(max(decoded.width, decoded.height, 320), 768)
        placement = Placement.on(resize, decoded.width, decoded.height, longest)
        photo = picture(decoded, placement)
        maps = []
        if attention is not None:
            maps.append(("attention", scale_map(attention, resize.crop, attention_centres)))
        if gradcam is not None:
            maps.append((question or "Grad-CAM", scale_map(gradcam, resize.crop, centres)))
        if mark is not None:
            maps.append((mark[0], scale_map(mark[1], resize.crop)))
        shown = [(title, scaled, overlay(photo, scaled, placement, opacity, colormap)) for title, scaled in maps]
        return encode(panel(photo, shown, caption, probability, colormap), media_type)
    placement = Placement.on(resize, decoded.width, decoded.height, size)
    check_size(placement, media_type)
    values, placed = (attention, attention_centres) if view == "attention" else (gradcam, centres)
    if mark is not None and view != "attention":
        values, placed = mark[1], None  # on a regular grid already
    if values is None:
        raise InvalidOption(f"This model has no {view} map.")
    scaled = scale_map(values, resize.crop, placed)
    if view == "overlay":
        return encode(overlay(picture(decoded, placement), scaled, placement, opacity, colormap), media_type)
    return encode(heatmap(scaled, placement, colormap), media_type)


def render_layer(
    scaled: ScaledMap, resize: Resize, width: int, height: int, *, colormap: str = "turbo", size: int | None = None
) -> str:
    """Return a map as a data URL: an RGBA PNG of the original's sides, transparent outside the network's crop.

    Args:
        scaled: the map, ready for display.
        resize: geometry of the model.
        width: of the original, pixels.
        height: of the original, pixels.
        colormap: one of `COLORMAPS`.
        size: longer side of the layer, pixels; None: the original's.

    Raises:
        InvalidOption: no such colormap.
        TooManyPixels: more than `MAX_DRAWN_PIXELS`.
    """
    placement = Placement.on(resize, width, height, size)
    check_size(placement, "image/png")
    layer = rgba_png(scaled.grid, placement, palette_of(colormap))
    return "data:image/png;base64," + base64.b64encode(layer).decode("ascii")


@dataclass(frozen=True, slots=True)
class MapLayer:
    """One map as a layer over the image.

    Attributes:
        png: data URL of an RGBA picture in the size of the image.
        values: raw, (h, w).
        scaled: what the colours show.
    """

    png: str
    values: Floats
    scaled: ScaledMap


def draw_layers(
    maps: Sequence[tuple[Floats, Centres | None]],
    resize: Resize,
    width: int,
    height: int,
    *,
    colormap: str,
    size: int | None,
) -> list[MapLayer]:
    """Return maps as layers over an image.

    Args:
        maps: raw values, (h, w) each, and where their cells look; None to place them side by side.
        resize: geometry of the model.
        width: of the upright image, pixels.
        height: likewise.
        colormap: name of the colours.
        size: longer side of the layers, pixels; None for the image's.
    """
    scaled = [scale_map(values, resize.crop, centres) for values, centres in maps]
    return [
        MapLayer(render_layer(one, resize, width, height, colormap=colormap, size=size), values, one)
        for (values, _), one in zip(maps, scaled, strict=True)
    ]
