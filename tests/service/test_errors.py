"""The decoder's errors become the service's, at one place."""

import pytest

from model.photo.errors import EmptyPhoto, PhotoError, TooManyPixels, UndecodablePhoto, UnsupportedFormat
from service.errors import FieldmarkError, photo_errors

STATUS = {
    EmptyPhoto: (400, "empty_input"),
    UnsupportedFormat: (415, "unsupported_image_type"),
    UndecodablePhoto: (422, "undecodable_image"),
    TooManyPixels: (422, "too_many_pixels"),
}


@pytest.mark.parametrize("kind", PhotoError.__subclasses__())
def test_every_error_of_the_decoder_has_its_status(kind: type[PhotoError]) -> None:
    """The detail stays; none is left out."""
    with pytest.raises(FieldmarkError) as caught, photo_errors():
        raise kind("It has no pixels.")
    assert (*STATUS[kind], "It has no pixels.") == (caught.value.status, caught.value.code, caught.value.detail)


def test_other_errors_pass() -> None:
    """What the decoder does not raise is none of its errors."""
    with pytest.raises(ZeroDivisionError), photo_errors():
        1 / 0  # noqa: B018 - raises
