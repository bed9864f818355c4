"""The body of a request → images, still as bytes: a raw image, or multipart/form-data with `file` once or more.

Parts are kept in memory while they arrive: the body is bounded by `max_upload_bytes`, and Starlette's form parser
would move it to a temporary file and through a thread pool.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

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
from service.http.api.schemas import ExplainOptions

MAX_OTHER_PARTS = 16
"""Most parts of a form that are not images; browsers and proxies add some."""
MAX_PART_HEADER_BYTES = 16 * 1024
"""Longest header of one part; the parser goes through headers byte by byte, and older ones of it set no bound."""

_FIELD = b"file"
_OPTIONS = frozenset(name.encode() for name in ExplainOptions.model_fields)
_MAX_FILENAME = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it was sent.

    Attributes:
        data: its bytes, not empty-checked.
        filename: last part of the name the client gave, printable; None where it gave none.
    """

    data: bytes
    filename: str | None = None


async def read_uploads(request: Request, max_files: int) -> tuple[list[Upload], int]:
    """Return the images of a request in their order, and the number of bytes read.

    Raises:
        EmptyInput: no body, or no part named `file`.
        InvalidOption: a part of the form is named like an option, which would go unheard.
        MalformedRequest: the multipart framing is broken.
        TooLarge: more than `max_files` images.
        UnsupportedImageType: the body is declared to be something else than an image.
        ClientDisconnect: the client hung up.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedImageType("Send the image as it is, without a Content-Encoding.")
    declared = request.headers.get("content-type", "application/octet-stream")
    kind = declared.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request.receive, declared, max_files)
    data = await read_body(request.receive)
    if not data:
        raise EmptyInput()
    # curl and urllib declare a form where nothing was declared: what is an image counts as one.
    is_default = kind == "application/x-www-form-urlencoded" and sniff(data) is not None
    if not kind.startswith("image/") and kind != "application/octet-stream" and not is_default:
        raise UnsupportedImageType("The Content-Type must be image/*, application/octet-stream or multipart/form-data.")
    return [Upload(data)], len(data)


@contextmanager
def named(upload: Upload) -> Iterator[None]:
    """Put the image's name before what is wrong with it."""
    try:
        yield
    except (EmptyInput, UnsupportedImageType, UndecodableImage, TooManyPixels) as error:
        if upload.filename is not None:
            error.detail = f"{upload.filename}: {error.detail}"
        raise


def recognise(data: bytes, limits: ImageLimits) -> None:
    """Refuse before the queue what no decoder takes, so that only photos wait for one.

    Raises:
        EmptyInput: no bytes.
        UnsupportedImageType: not a format that is served, by the first bytes.
    """
    try:
        allowed_format(data, limits)
    except PhotoError as error:
        raise of_photo(error) from error


async def read_body(receive: Receive) -> bytes:
    """Return a whole body, copied at most once.

    Raises:
        ClientDisconnect: the client hung up first.
    """
    chunks: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        if chunk := message.get("body"):
            chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _read_form(receive: Receive, declared: str, max_files: int) -> tuple[list[Upload], int]:
    form = _Form(_boundary(declared), max_files)
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        chunk = message.get("body", b"")
        size += len(chunk)
        form.feed(chunk)
        more = message.get("more_body", False)
    return form.finish(), size


def _boundary(declared: str) -> bytes:
    _, options = parse_options_header(declared)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MalformedRequest("multipart/form-data needs a boundary.")
    return boundary


class _Form:
    """Collects the parts named `file` while the bytes arrive."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        self._max_files = max_files
        self._mark = b"\r\n--" + boundary
        self._num_marks = 0
        self._uploads: list[Upload] = []
        self._num_parts = 0
        self._num_header_bytes = 0
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._filename: str | None = None
        self._is_unnamed = False
        self._unfilled: Upload | None = None
        self._chunks: list[bytes] | None = None
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise MalformedRequest("The multipart boundary is not valid.") from error

    def feed(self, chunk: bytes) -> None:
        """Parse further bytes.

        The parser goes byte by byte through whatever follows a boundary that is none, and through blanks behind one:
        twenty megabytes of either would hold the event loop for seconds.
        """
        self._num_marks += chunk.count(self._mark)
        if self._num_marks > self._max_files + MAX_OTHER_PARTS + 1:
            raise TooLarge("The form has too many parts.")
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedRequest("The multipart framing is broken.") from error
        if getattr(self._parser.state, "name", "") == "BOUNDARY_PADDING":
            raise MalformedRequest("Blanks behind a boundary are not taken.")

    def finish(self) -> list[Upload]:
        """Return the images once all bytes are there."""
        if self._num_parts and not self._complete:
            raise MalformedRequest("The multipart body ends before its last boundary.")
        uploads = self._uploads or ([] if self._unfilled is None else [self._unfilled])
        if not uploads:
            raise EmptyInput("The form has no part named `file`.")
        return uploads

    def _on_part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > self._max_files + MAX_OTHER_PARTS:
            raise TooLarge("The form has too many parts.")
        self._num_header_bytes = 0
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._header_bytes(data, start, end)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._header_bytes(data, start, end)

    def _header_bytes(self, data: bytes, start: int, end: int) -> bytes:
        self._num_header_bytes += end - start
        if self._num_header_bytes > MAX_PART_HEADER_BYTES:
            raise MalformedRequest("The header of a part is too large.")
        return data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._chunks = None
        name = options.get(b"name")
        if name in _OPTIONS:
            raise InvalidOption(f"`{name.decode()}` is a parameter of the query, not a part of the form.")
        if name != _FIELD:
            return
        sent = options.get(b"filename")
        self._is_unnamed = sent == b""
        if len(self._uploads) == self._max_files and not self._is_unnamed:
            raise TooLarge(f"A request may hold up to {self._max_files} images.")
        self._chunks = []
        self._filename = _shown_filename(_extended_filename(self._disposition) or sent)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._chunks is not None:
            self._chunks.append(data[start:end])

    def _on_part_end(self) -> None:
        if self._chunks is None:
            return
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = None
        if self._is_unnamed and not data:  # so a browser sends a field in which nobody chose a file
            self._unfilled = Upload(data)
            return
        if len(self._uploads) == self._max_files:
            raise TooLarge(f"A request may hold up to {self._max_files} images.")
        self._uploads.append(Upload(data, self._filename))

    def _on_end(self) -> None:
        self._complete = True


_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(rb";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s]+)", re.IGNORECASE)


def _extended_filename(disposition: bytes) -> bytes | None:
    """Return the name in `filename*` as UTF-8, which counts before `filename` (RFC 6266, section 4.3; RFC 8187)."""
    found = _EXTENDED.search(_QUOTED.sub(b'""', disposition))
    if found is None:
        return None
    return unquote_to_bytes(found[2]).decode(found[1].decode(), "replace").encode()


def _shown_filename(raw: bytes | None) -> str | None:
    """Return the last part of a client's file name, without what a terminal or a log would act on."""
    if raw is None:
        return None
    name = raw.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    printable = "".join(character for character in name if character.isprintable())
    return printable[:_MAX_FILENAME] or None
