"""How an image of any size becomes the square the network sees, and which part of the image it is."""

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator


class Resize(BaseModel, frozen=True, extra="forbid"):
    """How an image of any size becomes the square the network sees: scale, then a centre crop.

    Attributes:
        mode: `shorter_side` scales the shorter side to `size` and keeps the proportions;
            `stretch` scales both sides to `size`.
        size: length the image is scaled to, pixels.
        crop: side of the centre crop, which is the network's input, pixels.
    """

    mode: Literal["shorter_side", "stretch"] = "shorter_side"
    size: int = Field(ge=1, le=4096)
    crop: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.size:
            raise ValueError(f"crop {self.crop} is larger than the scaled size {self.size}")
        return self

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) in pixels after scaling, before the crop; torchvision's rounding."""
        if self.mode == "stretch":
            return self.size, self.size
        if width <= height:
            return self.size, int(self.size * height / width)
        return int(self.size * width / height), self.size

    def source_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of an image that the network sees: (left, top, right, bottom), in its own pixels.

        `image.resize((crop, crop), BILINEAR, box=source_box)` equals scaling the whole image and cropping
        its centre, without ever holding the scaled image (a 1×60000 strip would be gigabytes).

        Args:
            width: of the upright image, pixels, ≥ 1.
            height: of the upright image, pixels, ≥ 1.

        Raises:
            ValueError: a side is not positive.
        """
        if width < 1 or height < 1:
            raise ValueError(f"an image has positive sides, not {width}×{height}")
        scaled_width, scaled_height = self.scaled_size(width, height)
        step_x, step_y = width / scaled_width, height / scaled_height
        left = round((scaled_width - self.crop) / 2) * step_x
        top = round((scaled_height - self.crop) / 2) * step_y
        # The clip only undoes rounding: Pillow refuses a box that exceeds the image by 1e-12.
        return left, top, min(left + self.crop * step_x, float(width)), min(top + self.crop * step_y, float(height))
