"""The body of a request → images, still as bytes: a raw image, or multipart/form-data with `file` once or more.

Parts stay in memory, bounded by `max_upload_bytes`: Starlette's form parser would write them to a temporary file in a
thread pool.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    content_disposition_unquote,
    parse_options_header,
)
from starlette.requests import Request

from model.photo.errors import PhotoError
from model.photo.formats import allowed_format, sniff
from model.photo.limits import ImageLimits
from service.errors import (
    EmptyInput,
    InvalidOption,
    MalformedRequest,
    TooLarge,
    TooManyPixels,
    UndecodableImage,
    UnsupportedImageType,
    of_photo,
)
from service.http.api.schemas import ExplainOptions, PhotosOptions

MAX_OTHER_PARTS = 16
"""Most parts of a form that are not images; browsers and proxies add some."""
MAX_HEADER_FIELDS = 8
"""Most header fields of a part; RFC 7578 knows three, and a browser sends two."""
MAX_HEADER_FIELD_BYTES = 16 * 1024
"""Longest header field of a part."""

PHOTO_FAULTS = (EmptyInput, UnsupportedImageType, UndecodableImage, TooManyPixels)
"""Errors of an image, not of the request or the service."""
_OPTIONS = PhotosOptions.model_fields.keys() | ExplainOptions.model_fields.keys()
_MAX_FILENAME = 255
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it was sent.

    Attributes:
        data: its bytes, maybe none.
        filename: last part of the name the client gave, printable; None where it gave none.
        index: its place among the images of the request.
    """

    data: bytes
    filename: str | None = None
    index: int = 0


async def read_uploads(request: Request, max_files: int) -> tuple[list[Upload], int]:
    """Return the images of a request in their order, and the number of bytes read.

    Raises:
        EmptyInput: no body, or no part named `file`.
        InvalidOption: a part of the form is named like an option, which would be ignored.
        MalformedRequest: the multipart framing is broken.
        TooLarge: more than `max_files` images.
        UnsupportedImageType: the body is declared as something other than an image.
        ClientDisconnect: the client hung up.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedImageType("Send the image as it is, without a Content-Encoding.")
    declared = request.headers.get("content-type", "application/octet-stream")
    kind = declared.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, declared, max_files)
    data = await request.body()
    if not data:
        raise EmptyInput()
    # curl and urllib declare a form by default: a body that is an image is accepted.
    is_default = kind == "application/x-www-form-urlencoded" and sniff(data) is not None
    if not kind.startswith("image/") and kind != "application/octet-stream" and not is_default:
        raise UnsupportedImageType("The Content-Type must be image/*, application/octet-stream or multipart/form-data.")
    return [Upload(data)], len(data)


@contextmanager
def named(upload: Upload) -> Iterator[None]:
    """Put the image's name before the detail of its error."""
    try:
        yield
    except PHOTO_FAULTS as error:
        if upload.filename is not None:
            error.detail = f"{upload.filename}: {error.detail}"
        raise


def recognise(data: bytes, limits: ImageLimits) -> None:
    """Refuse before the queue what no decoder accepts, so that only photos are queued.

    Raises:
        EmptyInput: no bytes.
        UnsupportedImageType: by its first bytes, not a format that is served.
    """
    try:
        allowed_format(data, limits)
    except PhotoError as error:
        raise of_photo(error) from error


async def _read_form(request: Request, declared: str, max_files: int) -> tuple[list[Upload], int]:
    boundary = parse_options_header(declared)[1].get("boundary", "")
    if not boundary:
        raise MalformedRequest("multipart/form-data needs a boundary.")
    form = _Form(boundary.encode("latin-1"), max_files)
    async for chunk in request.stream():
        form.feed(chunk)
    return form.finish(), form.num_bytes


class _Form:
    """Collects the parts named `file` while the bytes arrive."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        self.num_bytes = 0
        self._max_files = max_files
        self._uploads: list[Upload] = []
        self._unfilled: list[Upload] = []
        self._num_parts = 0
        self._part: MultipartSegment | None = None
        self._chunks: list[bytearray] = []
        self._parser = PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_FIELD_BYTES,
            max_header_count=MAX_HEADER_FIELDS,
            header_charset="latin-1",  # decodes any bytes; file names are decoded again
        )

    def feed(self, chunk: bytes) -> None:
        """Parse further bytes."""
        self.num_bytes += len(chunk)
        try:
            for event in self._parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    self._begin(event)
                elif event is None:
                    self._end()
                elif self._part is not None:
                    self._chunks.append(event)
        except ParserLimitReached as error:
            raise MalformedRequest("The header of a part is too large.") from error
        except MultipartError as error:
            raise MalformedRequest("The multipart framing is broken.") from error

    def finish(self) -> list[Upload]:
        """Return the images once all bytes are there."""
        try:
            self._parser.close(check_complete=self.num_bytes > 0)
        except MultipartError as error:
            raise MalformedRequest("The multipart body ends before its last boundary.") from error
        uploads = self._uploads or self._unfilled[:1]
        if not uploads:
            raise EmptyInput("The form has no part named `file`.")
        return uploads

    def _begin(self, part: MultipartSegment) -> None:
        self._num_parts += 1
        if self._num_parts > self._max_files + MAX_OTHER_PARTS:
            raise TooLarge("The form has too many parts.")
        if part.name in _OPTIONS:
            raise InvalidOption(f"`{part.name}` is a parameter of the query, not a part of the form.")
        self._part = part if part.name == "file" else None

    def _end(self) -> None:
        if self._part is None:
            return
        upload = Upload(b"".join(self._chunks), _filename(self._part), len(self._uploads))
        self._chunks = []
        if self._part.filename == "" and not upload.data:  # a browser's field without a chosen file
            self._unfilled.append(upload)
        elif len(self._uploads) == self._max_files:
            raise TooLarge(f"A request may hold up to {self._max_files} images.")
        else:
            self._uploads.append(upload)


def _filename(part: MultipartSegment) -> str | None:
    """Return the last part of a client's file name, without characters that a terminal or a log would act on.

    `filename*` counts before `filename` (RFC 6266, section 4.3; RFC 8187).
    """
    _, options = parse_options_header(part["Content-Disposition"], unquote=content_disposition_unquote)
    extended = _EXTENDED.fullmatch(options.get("filename*", ""))
    if extended is not None:
        name = unquote(extended[2], extended[1])
    else:
        name = (part.filename or "").encode("latin-1").decode("utf-8", "replace")
    printable = "".join(
        character for character in name.replace("\\", "/").rpartition("/")[2] if character.isprintable()
    )
    return printable[:_MAX_FILENAME] or None
