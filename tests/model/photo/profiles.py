"""Small colour profiles made by hand, so that every kind of photo can be made from any photo."""

import io
import struct
from itertools import product

import numpy as np
from PIL import Image, ImageCms

_D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">l", round(value * 65536)) for value in values)


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(value * 256))


_SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _profile(name: str, space: bytes, connection: bytes, **tags: bytes) -> bytes:
    """Return an ICC profile of version 2: header, tag table, tags."""
    text = name.encode() + b"\0"
    tags = {
        "desc": b"desc\0\0\0\0" + struct.pack(">L", len(text)) + text + bytes(78),
        "cprt": b"text\0\0\0\0none\0",
        "wtpt": _xyz(*_D50),
        **tags,
    }
    table, body, begin = b"", b"", 132 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag.encode() + struct.pack(">LL", begin + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">LLL4s4s4s12x4s", begin + len(body), 0, 0x02400000, kind, space, connection, b"acsp")
    head = head.ljust(68, b"\0") + _fixed(*_D50)
    return head.ljust(128, b"\0") + struct.pack(">L", len(tags)) + table + body


def _print_profile() -> bytes:
    """Return a profile of dull inks: a table from 9 steps of each to Lab."""
    steps = np.linspace(0, 1, 9)
    cyan, magenta, yellow, black = np.array(list(product(steps, repeat=4))).T
    rgb = np.stack([1 - 0.9 * cyan, (1 - 0.8 * magenta) * (1 - 0.1 * cyan), (1 - 0.75 * yellow)]) * (1 - 0.85 * black)
    paper = Image.fromarray((rgb.T[:, None] * 255).round().astype(np.uint8))
    lab = ImageCms.profileToProfile(
        paper, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 5000), outputMode="LAB"
    )
    assert lab is not None
    lightness, *opponents = np.asarray(lab).reshape(-1, 3).T.astype(float)
    # Pillow's a and b are signed bytes.
    columns = [lightness / 255 * 65280, *(((value + 128) % 256) * 256 for value in opponents)]
    table = np.stack(columns, axis=1).round().astype(">u2").tobytes()
    straight = struct.pack(">HH", 0, 65535)
    head = b"mft2\0\0\0\0" + bytes((4, 3, 9, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    return _profile("Dull inks", b"CMYK", b"Lab ", A2B0=head + straight * 4 + table + straight * 3)


DISPLAY_P3 = _profile(
    "Display P3",
    b"RGB ",
    b"XYZ ",
    rXYZ=_xyz(0.51512, 0.24120, -0.00105),
    gXYZ=_xyz(0.29198, 0.69225, 0.04189),
    bXYZ=_xyz(0.15710, 0.06657, 0.78407),
    **dict.fromkeys(("rTRC", "gTRC", "bTRC"), _SRGB_CURVE),
)
LIGHT_GREY = _profile("Grey of gamma 1.4", b"GRAY", b"XYZ ", kTRC=_gamma(1.4))
"""Its mid grey is far lighter than sRGB's."""
DULL_INKS = _print_profile()


def converted(image: Image.Image, profile: bytes, mode: str) -> Image.Image:
    """Return an sRGB image's colours in the space of a profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    found = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode=mode)
    assert found is not None
    return found
