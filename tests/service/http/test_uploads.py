"""Bodies → images: however the bytes are cut, and whatever the framing holds."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import EmptyInput, FieldmarkError, InvalidOption, MalformedRequest, TooLarge
from service.http.uploads import MAX_OTHER_PARTS, Upload, _Form

MEGABYTE = 1024 * 1024


def parse(body: bytes, *, max_files: int = 4, cuts: tuple[int, ...] = ()) -> list[Upload]:
    """Return the images of a form with boundary `b`, fed in pieces."""
    form = _Form(b"b", max_files)
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, stop in pairwise(edges):
        form.feed(body[start:stop])
    return form.finish()


def part(data: bytes, disposition: str = 'form-data; name="file"', *further: str) -> bytes:
    """Return one part."""
    head = "\r\n".join((f"Content-Disposition: {disposition}", *further)).encode()
    return b"--b\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def form_of(*parts: bytes) -> bytes:
    """Return a whole form."""
    return b"".join(parts) + b"--b--\r\n"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=30))
def test_any_cut_gives_the_same_images(files: list[bytes], cuts: list[int]) -> None:
    """The images come out as they went in, wherever the network cuts the bytes."""
    files = [data.replace(b"\r\n--b", b"") for data in files]
    body = form_of(*(part(data) for data in files))
    assert files == [upload.data for upload in parse(body, cuts=tuple(cuts))]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ('; filename="bird.jpg"', "bird.jpg"),
        ('; filename="../../etc/passwd"', "passwd"),
        ('; filename="C:\\\\birds\\\\bird.jpg"', "bird.jpg"),
        ('; filename="vögel.jpg"', "vögel.jpg"),
        ('; filename="a\x1b[31mb"', "a[31mb"),
        ('; filename=""', None),
        ("", None),
        (f'; filename="{"x" * 300}"', "x" * 255),
        ("; filename*=UTF-8''%e9%b3%a5.jpg", "鳥.jpg"),
        ("; filename=\"bird.jpg\"; filename*=utf-8'ja'a%2Fb%20%e9%b3%a5.jpg", "b 鳥.jpg"),
        ("; filename*=ISO-8859-1''v%f6gel.jpg; filename=\"bird.jpg\"", "vögel.jpg"),
        ("; filename*=UTF-8''%ff.jpg", "�.jpg"),
        ("; filename*=nonsense; filename=bird.jpg", "bird.jpg"),
        ("; filename=\"a; filename*=UTF-8''b.jpg\"", "a; filename*=UTF-8''b.jpg"),
    ],
)
def test_filenames(sent: str, shown: str | None) -> None:
    """The last part of a file's name is kept, printable and short."""
    (upload,) = parse(form_of(part(b"x", f'form-data; name="file"{sent}')))
    assert shown == upload.filename


def test_filename_that_is_not_utf8() -> None:
    """A file name in another encoding is shown with marks, not refused."""
    sent = part(b"x", 'form-data; name="file"; filename="v?gel.jpg"').replace(b"?", b"\xf6")
    assert [Upload(b"x", "v\ufffdgel.jpg")] == parse(form_of(sent))


def test_other_parts_are_ignored() -> None:
    """Fields of other names count against a limit of their own, and are not images."""
    others = [part(b"x", 'form-data; name="note"')] * MAX_OTHER_PARTS
    assert [b"y"] == [upload.data for upload in parse(form_of(*others, part(b"y")), max_files=1)]
    with pytest.raises(TooLarge):
        parse(form_of(*others, *others, part(b"y")), max_files=1)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", EmptyInput),
        (b"--b--\r\n", EmptyInput),
        (form_of(part(b"x", 'form-data; name="image"')), EmptyInput),
        (form_of(part(b"class:3", 'form-data; name="target"'), part(b"x")), InvalidOption),
        (form_of(part(b"x"), part(b"1", 'form-data; name="top_k"')), InvalidOption),
        (form_of(part(b"x", "")), MalformedRequest),
        (b"no form at all", MalformedRequest),
        (part(b"x"), MalformedRequest),
        (part(b"x")[:-5], MalformedRequest),
        (b"--b\r\nContent-Disposition", MalformedRequest),
        (b"--b\r\n: x\r\n\r\n", MalformedRequest),
        (form_of(*[part(b"x")] * 5), TooLarge),
    ],
)
def test_broken_forms(body: bytes, error: type[FieldmarkError]) -> None:
    """Each kind of broken form has its own problem."""
    with pytest.raises(error):
        parse(body)


@pytest.mark.parametrize("filler", [b"\r\n--bx", b"\r\n--b ", b"\r\n--b\r\n"])
def test_false_boundaries_are_cut_short(filler: bytes) -> None:
    """Megabytes of almost-boundaries are refused."""
    with pytest.raises((TooLarge, MalformedRequest)):
        parse(part(filler * (2 * MEGABYTE // len(filler))), cuts=tuple(range(0, 2 * MEGABYTE, 65536)))


def test_blanks_after_a_boundary() -> None:
    """Megabytes of blanks after a boundary are refused."""
    with pytest.raises(MalformedRequest):
        parse(part(b"x")[:-2] + b"\r\n--b" + b" " * MEGABYTE, cuts=(65536,))


@pytest.mark.parametrize("header", [b"X: " + b"a" * MEGABYTE, b"a: b\r\n" * (MEGABYTE // 6), b"a" * MEGABYTE])
def test_headers_of_parts_are_bounded(header: bytes) -> None:
    """Megabytes of a part's header are refused at the first pieces, however many fields they are."""
    with pytest.raises(MalformedRequest):
        parse(b"--b\r\n" + header + b"\r\n\r\nx\r\n--b--\r\n", cuts=tuple(range(0, MEGABYTE, 65536)))


def test_fields_without_a_file() -> None:
    """A browser sends a field without a file as an empty part with an empty name: it counts as no image."""
    unfilled = part(b"", 'form-data; name="file"; filename=""', "Content-Type: application/octet-stream")
    photo = part(b"x", 'form-data; name="file"; filename="a.jpg"')
    for parts in ((photo, unfilled), (unfilled, photo), (unfilled, photo, unfilled)):
        assert [Upload(b"x", "a.jpg")] == parse(form_of(*parts), max_files=1)
    assert [Upload(b"")] == parse(form_of(unfilled, unfilled))
    with pytest.raises(TooLarge):
        parse(form_of(photo, part(b"x", 'form-data; name="file"; filename=""')), max_files=1)
