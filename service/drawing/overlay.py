"""A map over the photo that it explains."""

from PIL import Image

from model.photo.decode import DecodedImage
from service.drawing.maps import Placement, ScaledMap, coloured, shades_of, strip_levels


def overlay(
    image: Image.Image, scaled: ScaledMap, placement: Placement, opacity: float = 0.5, colormap: str = "turbo"
) -> Image.Image:
    """Blend a map over the image, which stays unchanged outside the network's crop.

    Args:
        image: RGB, of the placement's size; not changed.
        scaled: the map.
        placement: of the map on the image.
        opacity: share of the map's colour, 0 to 1.
        colormap: one of `COLORMAPS`.
    """
    if image.size != (placement.width, placement.height):
        raise ValueError(f"the image has {image.size}, the placement {placement.width}×{placement.height}")
    shades = shades_of(colormap)
    result = image.copy()
    for strip in placement.strips():
        colours = coloured(strip_levels(scaled.grid, placement, strip), shades).convert("RGB")
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
