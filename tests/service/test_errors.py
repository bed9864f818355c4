"""The decoder's errors become the service's."""

import pytest

from model.photo.errors import EmptyPhoto, PhotoError, TooManyPixels, UndecodablePhoto, UnsupportedFormat
from service.errors import of_photo

STATUS = {
    EmptyPhoto: (400, "empty_input"),
    UnsupportedFormat: (415, "unsupported_image_type"),
    UndecodablePhoto: (422, "undecodable_image"),
    TooManyPixels: (422, "too_many_pixels"),
}


@pytest.mark.parametrize("kind", PhotoError.__subclasses__())
def test_every_error_of_the_decoder_has_its_status(kind: type[PhotoError]) -> None:
    """Every error is mapped, with its detail."""
    error = of_photo(kind("It has no pixels."))
    assert (*STATUS[kind], "It has no pixels.") == (error.status, error.code, error.detail)
