"""Why a photo is not decoded.

PhotoError
├── EmptyPhoto           zero bytes
├── UnsupportedFormat    not a format of the allow-list, by the first bytes
├── UndecodablePhoto     broken, truncated, or of an unknown kind
└── TooManyPixels        more pixels or memory than one photo may take

Service and training convert these: `service.errors` into a status, training into an error that names the file.
`detail` is written for the sender of the photo: it never contains a path, a library's message or a traceback.
"""


class PhotoError(Exception):
    """Root of the tree; raise a subclass.

    Args:
        detail: what is wrong with this very photo, in a sentence.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class EmptyPhoto(PhotoError):
    """A photo of zero bytes."""


class UnsupportedFormat(PhotoError):
    """Not one of the formats that are decoded."""


class UndecodablePhoto(PhotoError):
    """Broken, truncated or of an unknown kind."""


class TooManyPixels(PhotoError):
    """Larger than is decoded."""
