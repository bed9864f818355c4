"""Maps → pictures: display scaling, placing on the original image, colour, overlay, panel, encoding.

Everything per pixel is done by Pillow in 8 bits or single floats, outside the interpreter lock, and in strips where
the image is large. The display scaling is that of pytorch-grad-cam (bilinear upsampling to the network's input, then
min-max), so that pictures can be compared; the raw range travels along, because min-max makes a flat map vivid.
"""

import base64
import io
import math
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from model.contract.geometry import Resize
from service.colormaps import COLORMAPS
from service.errors import InvalidOption, TooManyPixels
from service.image import DecodedImage

View = Literal["overlay", "gradcam", "attention", "panel"]
Floats = npt.NDArray[np.float32]

EPS = 1e-7
FLAT_RANGE = 0.02
"""An attention map with less between its least and greatest value tells one place from another by nothing."""
UNSEEN = 255
"""Palette index of what the network did not see: outside the centre crop. The map uses 0 to 254."""
UNSEEN_COLOUR = (96, 96, 96)
_NOT_UNSEEN = [*range(UNSEEN), UNSEEN - 1]
MAX_SIDE = {"image/webp": 16383, "image/jpeg": 65535, "image/png": 65535}
MAX_DRAWN_PIXELS = 25_000_000
"""A larger original is classified all the same; its picture needs a `size`."""
STRIP_PIXELS = 1_000_000
_PNG_UP = 2
"""PNG's filter type for differences to the row above."""


@dataclass(frozen=True)
class ScaledMap:
    """A map ready for display.

    Attributes:
        grid: values of the map's own cells, float32, (h, w), scaled so that the map enlarged to the network's
            input spans [0, 1]; single cells may stick out a little.
        min: least raw value.
        max: greatest raw value.
        is_zero: no positive evidence anywhere.
        is_flat: raw values differ by less than `FLAT_RANGE`; of interest for attention, whose unit is fixed.
    """

    grid: Floats
    min: float
    max: float
    is_zero: bool
    is_flat: bool

    def display(self, size: int) -> Floats:
        """Return the map enlarged to the network's input, in [0, 1], float32, (size, size)."""
        enlarged: Floats = np.asarray(_enlarged(self.grid, (size, size)), dtype=np.float32)
        return enlarged.clip(0, 1)


def scale_map(values: npt.ArrayLike, size: int = 224) -> ScaledMap:
    """Scale a raw map for display: bilinear upsampling (half-pixel centres), then one min-max with eps 1e-7.

    Args:
        values: raw map, (h, w). Not-a-number counts as zero.
        size: side of the network's input, pixels, where least and greatest are taken.

    Source: pytorch-grad-cam, `scale_cam_image`; enlarging and scaling are linear, so their order does not matter.
    """
    raw = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    enlarged = np.asarray(_enlarged(raw, (size, size)))
    low, high = float(enlarged.min()), float(enlarged.max())
    grid = (raw - np.float32(low)) / np.float32(high - low + EPS)
    least, greatest = float(raw.min()), float(raw.max())
    return ScaledMap(grid, least, greatest, is_zero=greatest <= 0, is_flat=greatest - least < FLAT_RANGE)


def _enlarged(grid: Floats, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Image.Image:
    """Return a map enlarged to (width, height) as an image of floats."""
    return Image.fromarray(np.ascontiguousarray(grid)).resize(size, Image.Resampling.BILINEAR, box=box)


# ── geometry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Placement:
    """Where a map lies on a picture of the original image.

    Attributes:
        width: of the picture, pixels.
        height: of the picture, pixels.
        seen: the part that the network saw, in the picture's pixels: (left, top, right, bottom).
    """

    width: int
    height: int
    seen: tuple[float, float, float, float]

    @classmethod
    def on(cls, resize: Resize, width: int, height: int, size: int | None = None) -> "Placement":
        """Return the placement on an image of these original sides, shown with its longer side at `size`."""
        factor = 1.0 if size is None else size / max(width, height)
        shown = max(1, round(width * factor)), max(1, round(height * factor))
        left, top, right, bottom = resize.source_box(width, height)
        x, y = shown[0] / width, shown[1] / height
        return cls(*shown, (left * x, top * y, right * x, bottom * y))

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """The pixels whose centres the network saw; at least one."""
        left, top, right, bottom = self.seen
        x, y = _centres(left, right, self.width), _centres(top, bottom, self.height)
        return x[0], y[0], x[1], y[1]

    def strips(self) -> Iterator[tuple[int, int, int, int]]:
        """Cut `inside` into strips of rows that are cheap to hold."""
        left, top, right, bottom = self.inside
        rows = max(1, STRIP_PIXELS // (right - left))
        for y in range(top, bottom, rows):
            yield left, y, right, min(y + rows, bottom)


def _centres(start: float, stop: float, length: int) -> tuple[int, int]:
    first = min(max(math.ceil(start - 0.5), 0), length - 1)
    return first, max(first + 1, min(math.ceil(stop - 0.5), length))


def _indices(grid: Floats, placement: Placement, strip: tuple[int, int, int, int]) -> Image.Image:
    """Return the palette indices, 0 to 254, of one strip: an image of mode L."""
    left, top, right, bottom = placement.seen
    x, y = grid.shape[1] / (right - left), grid.shape[0] / (bottom - top)
    width, height = float(grid.shape[1]), float(grid.shape[0])
    box = (
        min(max((strip[0] - left) * x, 0.0), width),
        min(max((strip[1] - top) * y, 0.0), height),
        max(min((strip[2] - left) * x, width), 0.0),
        max(min((strip[3] - top) * y, height), 0.0),
    )
    # Pillow cuts to 0…255 and drops the fraction. Drawn larger than the network's input, a peak exceeds 1.
    values = _enlarged(grid * np.float32(254) + np.float32(0.5), (strip[2] - strip[0], strip[3] - strip[1]), box)
    return values.convert("L").point(_NOT_UNSEEN)


def place_map(grid: Floats, placement: Placement) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return a map on the original image's pixels, and where it lies.

    Args:
        grid: of a `ScaledMap`, (h, w).
        placement: the picture.

    Returns:
        values in [0, 1], 0 outside, float32, (height, width); whether the network saw the pixel, bool, same shape.
    """
    values = np.zeros((placement.height, placement.width), np.float32)
    seen = np.zeros(values.shape, np.bool_)
    for strip in placement.strips():
        left, top, right, bottom = strip
        values[top:bottom, left:right] = np.asarray(_indices(grid, placement, strip), np.float32) / 254
        seen[top:bottom, left:right] = True
    return values, seen


# ── colour ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _palette(colormap: str) -> bytes:
    try:
        table = COLORMAPS[colormap]
    except KeyError:
        raise InvalidOption(f"There is no colormap {colormap!r}; there are {', '.join(COLORMAPS)}.") from None
    return bytes(table[np.rint(np.linspace(0, 255, 255)).astype(int)].tobytes()) + bytes(UNSEEN_COLOUR)


def _coloured(indices: Image.Image, palette: bytes) -> Image.Image:
    indices.putpalette(palette)
    return indices


def heatmap(scaled: ScaledMap, placement: Placement, colormap: str = "turbo") -> Image.Image:
    """Return the map in colour, an 8-bit palette image; what the network did not see is transparent grey."""
    result = Image.new("L", (placement.width, placement.height), UNSEEN)
    for strip in placement.strips():
        result.paste(_indices(scaled.grid, placement, strip), strip[:2])
    result = _coloured(result, _palette(colormap))
    if placement.inside != (0, 0, placement.width, placement.height):
        result.info["transparency"] = UNSEEN
    return result


def overlay(
    image: Image.Image, scaled: ScaledMap, placement: Placement, opacity: float = 0.5, colormap: str = "turbo"
) -> Image.Image:
    """Blend a map over the image, which keeps its own colours where the network did not look.

    Args:
        image: RGB, of the placement's size; not changed.
        scaled: the map.
        placement: of the map on the image.
        opacity: share of the map's colour, 0 to 1.
        colormap: one of `COLORMAPS`.
    """
    if image.size != (placement.width, placement.height):
        raise ValueError(f"the image has {image.size}, the placement {placement.width}×{placement.height}")
    palette = _palette(colormap)
    result = image.copy()
    for strip in placement.strips():
        colours = _coloured(_indices(scaled.grid, placement, strip), palette).convert("RGB")
        whole = strip == (0, 0, *image.size)
        blended = Image.blend(image if whole else image.crop(strip), colours, opacity)
        if whole:
            return blended
        result.paste(blended, strip[:2])
    return result


def picture(decoded: DecodedImage, placement: Placement) -> Image.Image:
    """Return the upright photo at the placement's size."""
    image = decoded.image
    if image.size == (placement.width, placement.height) and decoded.scale == 1:
        return image
    shift_x, shift_y = decoded.offset
    box = (
        max(shift_x, 0.0),
        max(shift_y, 0.0),
        min(shift_x + decoded.width / decoded.scale, float(image.width)),
        min(shift_y + decoded.height / decoded.scale, float(image.height)),
    )
    shrinks = placement.width < box[2] - box[0]
    kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return image.resize((placement.width, placement.height), kind, box=box, reducing_gap=3.0 if shrinks else None)


# ── whole answers ────────────────────────────────────────────────────────────────────────────────────────────────────


def render_view(
    decoded: DecodedImage,
    resize: Resize,
    *,
    view: View,
    gradcam: npt.ArrayLike | None = None,
    attention: npt.ArrayLike | None = None,
    caption: str = "",
    question: str = "",
    probability: float | None = None,
    colormap: str = "turbo",
    opacity: float = 0.5,
    size: int | None = None,
    media_type: str = "image/png",
) -> bytes:
    """Return one answer of `/explain` as an encoded picture; for a worker thread.

    Args:
        decoded: the photo.
        resize: geometry of the model.
        view: `overlay` (Grad-CAM over the photo), `gradcam` or `attention` (the bare heatmap), or `panel`.
        gradcam: raw map, (h, w); needed by all views but `attention`.
        attention: raw map, (h, w), or None where the model has none; needed by view `attention`.
        caption: the class, for the panel.
        question: what the Grad-CAM answers, for the panel, e.g. `why A and not B`.
        probability: of the class, for the panel, 0 to 1.
        colormap: one of `COLORMAPS`.
        opacity: of the maps over the photo, 0 to 1.
        size: longer side of the picture, in a panel of each of its pictures, pixels; None: the original's.
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
            maps.append(("attention", scale_map(attention, resize.crop)))
        if gradcam is not None:
            maps.append((question or "Grad-CAM", scale_map(gradcam, resize.crop)))
        shown = [(title, scaled, overlay(photo, scaled, placement, opacity, colormap)) for title, scaled in maps]
        return encode(panel(photo, shown, caption, probability, colormap), media_type)
    placement = Placement.on(resize, decoded.width, decoded.height, size)
    _check_size(placement, media_type)
    values = attention if view == "attention" else gradcam
    if values is None:
        raise InvalidOption(f"This model has no {view} map.")
    scaled = scale_map(values, resize.crop)
    if view == "overlay":
        return encode(overlay(picture(decoded, placement), scaled, placement, opacity, colormap), media_type)
    return encode(heatmap(scaled, placement, colormap), media_type)


def render_layer(
    values: npt.ArrayLike, resize: Resize, width: int, height: int, *, colormap: str = "turbo", size: int | None = None
) -> str:
    """Return a map as a data URL: an RGBA PNG of the original's sides, transparent where the network did not look.

    Args:
        values: raw map, (h, w).
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
    _check_size(placement, "image/png")
    layer = _rgba_png(scale_map(values, resize.crop).grid, placement, _palette(colormap))
    return "data:image/png;base64," + base64.b64encode(layer).decode("ascii")


def _rgba_png(grid: Floats, placement: Placement, palette: bytes) -> bytes:
    """Return an RGBA PNG of a map, written strip by strip: the whole layer would be four bytes a pixel.

    Rows are stored as differences to the row above, which are nearly all zero in an enlarged map.
    """
    colours = np.full((256, 4), 255, np.uint8)
    colours[:, :3] = np.frombuffer(palette, np.uint8).reshape(256, 3)
    colours[UNSEEN] = 0
    table = colours.view(np.uint32)[:, 0]
    width, height = placement.width, placement.height
    left, top, right, bottom = placement.inside
    above = np.zeros(4 * width, np.uint8)
    packer, packed = zlib.compressobj(1), []
    rows = max(1, STRIP_PIXELS // 4 // width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        indices = np.full((stop - start, width), UNSEEN, np.uint8)
        first, last = max(start, top), min(stop, bottom)
        if first < last:
            seen = _indices(grid, placement, (left, first, right, last))
            indices[first - start : last - start, left:right] = np.asarray(seen)
        pixels = table[indices].view(np.uint8).reshape(stop - start, 4 * width)
        filtered = np.full((stop - start, 1 + 4 * width), _PNG_UP, np.uint8)
        filtered[0, 1:] = pixels[0] - above
        filtered[1:, 1:] = pixels[1:] - pixels[:-1]
        above = pixels[-1]
        packed.append(packer.compress(filtered.data))
    head = struct.pack(">LLBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", b"".join([*packed, packer.flush()])), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _check_size(placement: Placement, media_type: str) -> None:
    if placement.width * placement.height > MAX_DRAWN_PIXELS:
        pixels = f"{placement.width}×{placement.height} pixels"
        raise TooManyPixels(f"A picture of {pixels} is more than is drawn; ask for a smaller `size`.")
    longest = MAX_SIDE.get(media_type, 0)
    if max(placement.width, placement.height) > longest:
        raise InvalidOption(f"{media_type} holds at most {longest} pixels a side; ask for a smaller `size`.")


def encode(image: Image.Image, media_type: str) -> bytes:
    """Return the picture's file.

    Args:
        image: RGB, RGBA or palette.
        media_type: `image/png`, `image/webp` or `image/jpeg`.
    """
    stream = io.BytesIO()
    if media_type == "image/png":
        # Level 1: a third of the time of the default for a tenth more bytes.
        image.save(stream, "PNG", compress_level=1)
    elif media_type == "image/webp":
        (image.convert("RGBA") if image.mode == "P" else image).save(stream, "WEBP", quality=85, method=1)
    elif media_type == "image/jpeg":
        image.convert("RGB").save(stream, "JPEG", quality=88)
    else:
        raise InvalidOption(f"There are no pictures of type {media_type}; there are {', '.join(MAX_SIDE)}.")
    return stream.getvalue()


# ── panel ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_PAPER, _INK, _FAINT, _ACCENT, _TRACK = "#ffffff", "#16202a", "#66727f", "#2f6f5e", "#e6eaee"


def panel(
    photo: Image.Image,
    maps: list[tuple[str, ScaledMap, Image.Image]],
    caption: str,
    probability: float | None,
    colormap: str = "turbo",
) -> Image.Image:
    """Draw the photo and its maps side by side, with the class, its probability and each map's raw range.

    Args:
        photo: RGB.
        maps: (title, map, overlay of the photo's size), left to right.
        caption: the class.
        probability: of the class, 0 to 1; None draws no bar.
        colormap: of the overlays, for the colour bars.
    """
    width, height = photo.size
    unit = min(max(round(max(width, height) / 28), 12), 40)  # the text grows with the pictures
    column = max(width, 9 * unit)  # a narrow photo still has room for its title
    count = 1 + len(maps)
    head, foot = round(4.2 * unit), round(3.4 * unit)
    sheet = Image.new("RGB", (count * column + (count + 1) * unit, head + height + foot), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, (unit, unit, sheet.width - unit), unit, caption, probability)
    for i, (title, scaled, shown) in enumerate([("photo", None, photo), *maps]):
        left = unit + i * (column + unit)
        sheet.paste(shown, (left + (column - width) // 2, head))
        _draw_foot(sheet, (left, head + height + unit // 2), (column, unit), title, scaled, colormap)
    return sheet


def _draw_head(
    draw: ImageDraw.ImageDraw, place: tuple[int, int, int], unit: int, caption: str, probability: float | None
) -> None:
    left, top, right = place
    font = ImageFont.load_default(1.35 * unit)
    share = "" if probability is None else f"{probability:.1%}"
    draw.text((right, top), share, _ACCENT, font, anchor="ra")
    room = right - left - draw.textlength(share, font) - unit
    draw.text((left, top), _fitting(draw, caption, font, room), _INK, font)
    if probability is not None:
        bar = top + 2 * unit
        thick = max(unit // 3, 3)
        draw.rounded_rectangle((left, bar, right, bar + thick), thick / 2, _TRACK)
        filled = left + max((right - left) * min(max(probability, 0.0), 1.0), thick)
        draw.rounded_rectangle((left, bar, filled, bar + thick), thick / 2, _ACCENT)


def _draw_foot(
    sheet: Image.Image,
    place: tuple[int, int],
    room: tuple[int, int],
    title: str,
    scaled: ScaledMap | None,
    colormap: str,
) -> None:
    (left, top), (width, unit) = place, room
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(unit)
    draw.text((left, top), _fitting(draw, title, font, width), _INK, font)
    if scaled is None:
        return
    small = ImageFont.load_default(0.8 * unit)
    line = top + round(1.6 * unit)
    note = _note(title, scaled)
    if note:
        draw.text((left, line), _fitting(draw, note, small, width), _FAINT, small)
        return
    low, high = f"{scaled.min:.3g}", f"{scaled.max:.3g}"
    draw.text((left, line), low, _FAINT, small)
    draw.text((left + width, line), high, _FAINT, small, anchor="ra")
    start = left + round(draw.textlength(low, small)) + unit // 2
    stop = left + width - round(draw.textlength(high, small)) - unit // 2
    if stop > start:
        steps = np.linspace(0, 254, stop - start).astype(np.uint8)
        ramp = Image.fromarray(np.broadcast_to(steps, (max(unit // 2, 4), stop - start)).copy())
        sheet.paste(_coloured(ramp, _palette(colormap)).convert("RGB"), (start, line + unit // 5))


def _note(title: str, scaled: ScaledMap) -> str:
    """Say it when the colours mean nothing."""
    if scaled.is_zero:
        return "no positive evidence"
    if title == "attention" and scaled.is_flat:
        return f"flat: {scaled.min:.3f} to {scaled.max:.3f}"
    return ""


def _fitting(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float
) -> str:
    """Return the text in the characters that Pillow's font has, cut to the room."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    if draw.textlength(plain, font) <= room:
        return plain
    while plain and draw.textlength(plain + "...", font) > room:
        plain = plain[:-1]
    return plain + "..."
