"""A PNG → the chunks that are drawn, so that text of any length cannot make a photo fail.

Pillow reads every chunk: text beyond a megabyte, a long profile or a wrong checksum in a date fails the whole file,
and drawing programs store whole workflows there. A browser skips such chunks; so does this, before Pillow reads them.
 Of an animation the first frame is drawn, which need not be the default image: that one is for viewers that know
no animations (https://www.w3.org/TR/png-3/#apng-frame-based-animation).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from model.photo.colour import PROFILE_BYTES
from model.photo.errors import UndecodablePhoto

MAX_CHUNKS = 200_000
"""Of one file; each costs time, even where it is skipped."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20
"""The bit of a chunk's first letter by which a reader may skip it."""
_DRAWN = (b"tRNS", b"eXIf")
"""Ancillary chunks that change what is drawn, beside the profile."""


@dataclass(frozen=True)
class Frame:
    """Position of an animation's first frame.

    Attributes:
        canvas: width and height of the whole, pixels; it is transparent where the frame is not.
        corner: the frame's left top corner, pixels.
    """

    canvas: tuple[int, int]
    corner: tuple[int, int]


@dataclass(frozen=True)
class Drawing:
    """What of a PNG is drawn.

    Attributes:
        data: a PNG without metadata and animation.
        profile: ICC profile; empty without one, and for one that is broken or beyond `PROFILE_BYTES`.
        frame: place of the first frame, where it is not the default image.
    """

    data: bytes
    profile: bytes = b""
    frame: Frame | None = None


class _Chunk(NamedTuple):
    kind: bytes
    whole: memoryview
    body: memoryview

    @property
    def is_intact(self) -> bool:
        return zlib.crc32(self.whole[4:-4]) == int.from_bytes(self.whole[-4:], "big")


def read_drawing(data: bytes) -> Drawing:
    """Return what of a PNG is drawn.

    Raises:
        UndecodablePhoto: too many chunks.
    """
    kept: list[memoryview | bytes] = [SIGNATURE]
    profile, has_pixels, end = None, False, len(SIGNATURE)
    animation = _Animation()
    for chunk in _chunks(data):
        end += len(chunk.whole)
        has_pixels = has_pixels or chunk.kind == b"IDAT"
        animation.add(chunk)
        if chunk.kind == b"iCCP" and profile is None and not has_pixels:
            profile = _inflated(chunk.body) if chunk.is_intact else b""
        elif not chunk.kind[0] & _ANCILLARY or (chunk.kind in _DRAWN and chunk.is_intact):
            kept.append(chunk.whole)
    kept.append(memoryview(data)[end:])  # cut off or broken: as Pillow finds it
    frame = animation.frame
    if frame is not None:
        kept = [SIGNATURE, *animation.first_frame()]
    return Drawing(b"".join(kept), profile or b"", frame)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the complete chunks up to the end or to the first invalid one."""
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        head = data[at : at + 8]
        end = at + 12 + int.from_bytes(head[:4], "big")
        if len(head) < 8 or end > len(data) or not head[4:].isalpha():
            return
        yield _Chunk(head[4:], view[at:end], view[at + 8 : end - 4])
        if head[4:] == b"IEND":
            return
        at = end
    raise UndecodablePhoto(f"The PNG image has more than {MAX_CHUNKS:,} chunks.")


def _inflated(body: memoryview) -> bytes:
    """Return the profile of an `iCCP` chunk, or nothing where it is broken or too long."""
    name, _, rest = bytes(body).partition(b"\0")
    if not 1 <= len(name) <= 79 or rest[:1] != b"\0":
        return b""
    try:
        found = zlib.decompressobj().decompress(rest[1:], PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return found if len(found) <= PROFILE_BYTES else b""


class _Animation:
    """Finds a first frame that is not the default image."""

    def __init__(self) -> None:
        self._is_animated = False
        self._header: _Chunk | None = None
        self._before: list[memoryview | bytes] = []
        self._control: bytes | None = None
        self._pixels: list[memoryview] = []
        self._has_default = False
        self._is_over = False

    def add(self, chunk: _Chunk) -> None:
        """Process the next chunk of the file."""
        match chunk.kind:
            case b"IHDR":
                self._header = self._header or chunk
            case b"PLTE" | b"tRNS" | b"eXIf" if chunk.is_intact:
                self._before.append(chunk.whole)
            case b"acTL":
                self._is_animated = not self._has_default and len(chunk.body) == 8 and any(chunk.body[:4])
            case b"IDAT":
                self._has_default = True
            case b"fcTL":
                self._is_over = self._is_over or not self._has_default or self._control is not None
                self._control = bytes(chunk.body)
            case b"fdAT" if self._control is not None and not self._is_over:
                self._pixels.append(chunk.body[4:])

    @property
    def frame(self) -> Frame | None:
        """Return the place of the first frame; None where the default image is shown."""
        if self._header is None or self._control is None or not (self._is_animated and self._pixels):
            return None
        canvas = struct.unpack_from(">LL", self._header.body)
        if len(self._control) != 26:
            return None
        width, height, left, top = struct.unpack_from(">LLLL", self._control, 4)
        if min(width, height) < 1 or left + width > canvas[0] or top + height > canvas[1]:
            return None
        return Frame((canvas[0], canvas[1]), (left, top))

    def first_frame(self) -> list[memoryview | bytes]:
        """Return the chunks of a PNG that is the first frame."""
        assert self._header is not None and self._control is not None, "asked after `frame`"  # noqa: S101, PT018
        header = self._control[4:12] + bytes(self._header.body[8:])
        pixels = [framed(b"IDAT", bytes(part)) for part in self._pixels]
        return [framed(b"IHDR", header), *self._before, *pixels, framed(b"IEND", b"")]


def framed(kind: bytes, body: bytes) -> bytes:
    """Return a chunk: length, kind, body, checksum."""
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
