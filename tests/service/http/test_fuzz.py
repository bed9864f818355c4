"""More than ten thousand hostile requests through the whole application: never a 5xx, and it keeps answering."""

import asyncio
import io
import json
import struct
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.http.oip.routes import HEADER_LENGTH
from tests.service.running import Running
from tests.service.tiny_model import SIDE

RAW, FORMS, TENSORS, CASES_AN_EXAMPLE = 160, 200, 160, 20
assert (RAW + FORMS + TENSORS) * CASES_AN_EXAMPLE >= 10_000

thorough = settings(
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def ask(server: Running, path: str, headers: dict[str, str], bodies: list[list[bytes]]) -> list[int]:
    """Return the statuses of requests passed directly to the application, each body in the given pieces."""

    async def one(pieces: list[bytes]) -> int:
        messages: Iterator[dict[str, object]] = iter(
            {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
            for index, piece in enumerate(pieces)
        )
        forever = asyncio.Event()
        statuses: list[int] = []

        async def receive() -> dict[str, object]:
            for message in messages:
                return message
            await forever.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])  # type: ignore[arg-type]

        address, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": address, "raw_path": address.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }  # fmt: skip
        await server.app(scope, receive, send)  # type: ignore[arg-type]
        return statuses[0]

    async def some() -> list[int]:
        return [await one(pieces) for pieces in bodies]

    return asyncio.run_coroutine_threadsafe(some(), server.loop).result(120)


def hold(statuses: list[int]) -> None:
    """Check that no status is a fault of the service."""
    assert [] == [status for status in statuses if not 200 <= status < 500]


# Hostile bytes: real files with pieces cut out, doubled, changed.


@cache
def real_files() -> list[bytes]:
    """Return small real files of every format, some with several frames, a palette, alpha, EXIF, many bits."""
    made = []
    photo = Image.radial_gradient("L").resize((24, 16)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16"):
            stream = io.BytesIO()
            try:
                photo.convert("I" if mode == "I;16" else mode).convert(mode).save(stream, image_format, exif=exif)
            except (OSError, ValueError):
                continue  # the format has no such mode
            made.append(stream.getvalue())
    stream = io.BytesIO()
    photo.save(stream, "GIF", save_all=True, append_images=[photo.rotate(90)])
    made.append(stream.getvalue())
    stream = io.BytesIO()
    photo.save(stream, "JPEG", progressive=True)
    return [*made, stream.getvalue()]


PIECES = (b"\0", b"\xff", b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"--", b"\r\n", b"\x89PNG", b"II*\0")
Edit = tuple[str, float, int, bytes]


def random_edits(dice: Random) -> list[Edit]:
    """Return one to four changes at relative places."""
    return [
        (
            dice.choice(("set", "cut", "double", "insert")),
            dice.random(),
            dice.randint(1, 24),
            dice.choice(PIECES) if dice.random() < 0.5 else dice.randbytes(dice.randint(0, 6)),
        )
        for _ in range(dice.randint(1, 4))
    ]


def edited(data: bytes, changes: list[Edit]) -> bytes:
    """Return bytes with changes at relative places."""
    for kind, place, length, new in changes:
        at = int(place * len(data))
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at] + data[at + length :]
        elif kind == "double":
            data = data[: at + length] + data[at:]
        else:
            data = data[:at] + new + data[at:]
    return data


def pieces_of(data: bytes, dice: Random) -> list[bytes]:
    """Return the bytes as the network may deliver them."""
    edges = [0, *sorted(dice.randint(0, len(data)) for _ in range(dice.randint(0, 3))), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


# One draw of hypothesis is a seed for many cases: drawing each change by itself takes ten times as long as the case.
seeds = st.integers(0, 2**64)


@pytest.mark.slow
@settings(thorough, max_examples=RAW)
@given(
    seeds,
    st.sampled_from(
        ["/classify?marks=8", "/explain?view=panel&size=32", "/explain?target=rank:1&versus=rank:2&view=marks"]
    ),
)
def test_images(marked_server: Running, seed: int, address: str) -> None:
    """Changed images are answered or refused."""
    dice = Random(seed)  # noqa: S311 - replayed from its seed
    changed = [edited(dice.choice(real_files()), random_edits(dice)) for _ in range(CASES_AN_EXAMPLE)]
    hold(ask(marked_server, address, {"Content-Type": "image/png"}, [pieces_of(data, dice) for data in changed]))


@cache
def forms() -> list[bytes]:
    """Return valid forms: one image, several, other fields, empty parts."""
    png = real_files()[-1]
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    note = b'--xyz\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    end = b"--xyz--\r\n"
    one = head + png + b"\r\n"
    return [
        one + end,
        one * 3 + end,
        note + one + note + end,
        head + b"\r\n" + end,
        end,
        b"\r\n\r\n" + one + end + b"rest",
    ]


types = st.sampled_from(["multipart/form-data; boundary=xyz", 'multipart/form-data; boundary="xyz"; charset=utf-8']) | (
    st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=80).map(
        lambda text: f"multipart/form-data; boundary={text}"
    )
)


@pytest.mark.slow
@settings(thorough, max_examples=FORMS)
@given(seeds, types)
def test_forms(marked_server: Running, seed: int, content_type: str) -> None:
    """Changed forms are answered or refused, however they are cut."""
    dice = Random(seed)  # noqa: S311 - replayed from its seed
    changed = [edited(dice.choice(forms()), random_edits(dice)) for _ in range(CASES_AN_EXAMPLE)]
    hold(ask(marked_server, "/classify", {"Content-Type": content_type}, [pieces_of(data, dice) for data in changed]))


@cache
def inferences() -> list[tuple[bytes, int | None]]:
    """Return valid requests of the inference protocol, with the length of their JSON where tensors follow it."""
    count = SIDE * SIDE * 3
    image = {"name": "image", "shape": [1, SIDE, SIDE, 3], "datatype": "UINT8"}
    target = {"name": "target", "shape": [1, 2], "datatype": "INT64", "data": [[0, -1]]}
    mark = {"name": "mark", "shape": [1, 2], "datatype": "INT64", "data": [3, -2]}
    versus = {"name": "versus", "shape": [1, 2], "datatype": "INT64", "data": [4, -2]}
    layer = {"name": "layer", "shape": [1], "datatype": "INT64", "data": [0]}
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "gradcam"}]
    plain = {"id": "1", "inputs": [image | {"data": [7] * count}, target, versus, layer, mark], "outputs": outputs}
    file = real_files()[0]
    raw = {"inputs": [image | {"parameters": {"binary_data_size": count}}], "parameters": {"binary_data_output": True}}
    encoded = {"name": "encoded", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(file) + 4}}
    found: list[tuple[bytes, int | None]] = [(json.dumps(plain).encode(), None)]
    for request, tail in ((raw, bytes(count)), ({"inputs": [encoded]}, struct.pack("<I", len(file)) + file)):
        text = json.dumps(request).encode()
        found.append((text + tail, len(text)))
    return found


TOKENS = (
    b"null", b"-1", b"1e999", b"9" * 30, b"[[]]", b"{}", b'"x"', b"[" * 300, b"true", b"0.5", b"4" * 10,
    b"1" + b"8" * 19,
)  # fmt: skip


def respelled(text: bytes, dice: Random) -> bytes:
    """Return JSON with one or two of its values replaced."""
    for _ in range(dice.randint(1, 2)):
        spots = [index for index, byte in enumerate(text) if byte in b'0123456789[{"'] or [0]
        at = dice.choice(spots)
        text = text[:at] + dice.choice(TOKENS) + text[at + 1 :]
    return text


def hostile_inference(dice: Random) -> tuple[list[bytes], dict[str, str]]:
    """Return a changed request of the inference protocol, as pieces, and its headers."""
    body, length = dice.choice(inferences())
    text, tail = (body, b"") if length is None else (body[:length], body[length:])
    declared = len(text)
    if dice.random() < 0.5:
        text = respelled(text, dice)
        declared = len(text)
        whole = text + tail
    else:
        whole = edited(text + tail, random_edits(dice))
        declared += dice.randint(-3, 3)
    return pieces_of(whole, dice), {} if length is None else {HEADER_LENGTH: str(declared)}


@pytest.mark.slow
@settings(thorough, max_examples=TENSORS)
@given(seeds)
def test_tensors(marked_server: Running, seed: int) -> None:
    """Changed requests of the inference protocol are answered or refused."""
    dice = Random(seed)  # noqa: S311 - replayed from its seed
    for _ in range(CASES_AN_EXAMPLE):
        pieces, headers = hostile_inference(dice)
        hold(ask(marked_server, "/v2/models/tiny/infer", headers, [pieces]))


@pytest.mark.parametrize(
    "header", ["Accept", "Content-Type", "X-Request-Id", "X-Request-Timeout-Ms", "Content-Length", HEADER_LENGTH]
)
@settings(thorough, max_examples=20)
@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), min_size=2, max_size=2))
def test_headers(marked_server: Running, header: str, values: list[str]) -> None:
    """Strange values of the headers that are read are answered or refused."""
    for value in values:
        for address in ("/classify", "/explain", "/v2/models/tiny/infer"):
            statuses = ask(marked_server, address, {"Content-Type": "image/png", header: value}, [[real_files()[0]]])
            # A deadline of almost no time is missed, as requested.
            hold([status for status in statuses if not (header == "X-Request-Timeout-Ms" and status == 504)])


@settings(thorough, max_examples=60)
@given(st.text(max_size=80), st.binary(max_size=40))
def test_queries(marked_server: Running, text: str, data: bytes) -> None:
    """Strange query strings and addresses are answered or refused."""
    query = text.encode("utf-8", "surrogatepass").decode("latin-1").replace("?", "")
    for address in (
        f"/classify?{query}",
        f"/explain?target={query}",
        f"/explain?mark={query}",
        f"/{query}",
        f"/v2/models/{query}/infer",
    ):
        try:
            address.encode("ascii")
        except UnicodeEncodeError:
            address = "/classify?" + "".join(f"%{byte:02x}" for byte in data)
        hold(ask(marked_server, address, {"Content-Type": "image/png"}, [[real_files()[0]]]))
