"""Every awkward image, in every position, over HTTP: a typed answer each, and the next request works."""

import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import ExifTags, Image

from tests.service.running import Running

TYPED = {400, 413, 415, 422}


@pytest.fixture(scope="module")
def awkward(data_dir: Path) -> list[Path]:
    """Return the odd files, licences left out."""
    return sorted(path for path in (data_dir / "awkward").iterdir() if not path.name.startswith("LICENSE"))


def check_problem(document: dict[str, object], status: int) -> None:
    """Check a problem document against its status."""
    assert status in TYPED
    assert document["status"] == status
    assert document["code"]


@pytest.fixture(scope="module")
def alone(bundled_server: Running, awkward: list[Path]) -> dict[str, httpx.Response]:
    """Return the answer of `/classify` for each file sent alone as the raw body."""
    with bundled_server.client() as client:
        return {path.name: post(client, "/classify", path) for path in awkward}


def post(client: httpx.Client, address: str, path: Path) -> httpx.Response:
    """Send a file as the raw body."""
    return client.post(address, content=path.read_bytes(), headers={"Content-Type": "image/*"})


def test_classify(alone: dict[str, httpx.Response]) -> None:
    """Each file gets its class or a typed problem, and some of both."""
    for answer in alone.values():
        if answer.status_code != 200:
            check_problem(answer.json(), answer.status_code)
    assert sum(answer.status_code == 200 for answer in alone.values()) > 30
    assert sum(answer.status_code != 200 for answer in alone.values()) >= 5


@pytest.mark.parametrize("address", ["/explain?size=256", "/explain?view=panel&size=128&target=rank:1&versus=rank:2"])
def test_explain(bundled_server: Running, awkward: list[Path], alone: dict[str, httpx.Response], address: str) -> None:
    """Each file gets its picture where it gets a class, else the same problem."""
    with bundled_server.client() as client:
        for path in awkward:
            answer, expected = post(client, address, path), alone[path.name]
            assert (path.name, expected.status_code) == (path.name, answer.status_code)
            if answer.status_code == 200:
                assert answer.headers["content-type"] == "image/png"
            else:
                assert expected.json()["code"] == answer.json()["code"]
        assert client.get("/readyz").status_code == 200


def test_form(bundled_server: Running, awkward: list[Path], alone: dict[str, httpx.Response]) -> None:
    """Each file alone in a form gets the same status as the raw body."""
    with bundled_server.client() as client:
        for path in awkward:
            answer = client.post("/classify", files={"file": (path.name, path.read_bytes())})
            assert (path.name, alone[path.name].status_code) == (path.name, answer.status_code)


def test_many_in_one_request(bundled_server: Running, awkward: list[Path], alone: dict[str, httpx.Response]) -> None:
    """All files in a few requests get one entry each, in order, as if each had been sent alone.

    But for the last digit: what is alone is run by more threads, which add up in another order.
    """
    with bundled_server.client() as client:
        for start in range(0, len(awkward), 8):
            paths = awkward[start : start + 8]
            files = [("file", (path.name, path.read_bytes())) for path in paths]
            results = client.post("/classify", files=files).raise_for_status().json()["results"]
            assert [path.name for path in paths] == [result["filename"] for result in results]
            for path, result in zip(paths, results, strict=True):
                expected = alone[path.name].json()
                assert [pytest.approx(each, abs=2e-6) for each in expected.get("predictions", [])] == (
                    result.get("predictions") or []
                )
                assert expected.get("code") == result.get("code")


def test_inference_protocol(bundled_server: Running, awkward: list[Path], alone: dict[str, httpx.Response]) -> None:
    """Each file as an encoded tensor gets the same class, or the same problem."""
    with bundled_server.client() as client:
        for path in awkward:
            data = path.read_bytes()
            tensor = {
                "name": "encoded",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(data) + 4},
            }
            text = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
            body = text + len(data).to_bytes(4, "little") + data
            answer = client.post(
                "/v2/models/cub50/infer", content=body, headers={"Inference-Header-Content-Length": str(len(text))}
            )
            expected = alone[path.name]
            assert (path.name, expected.status_code) == (path.name, answer.status_code)
            if answer.status_code == 200:
                assert [expected.json()["predictions"][0]["label"]] == answer.json()["outputs"][0]["data"]
            else:
                assert expected.json()["code"] == answer.json()["code"]


def test_rotated_files(bundled_server: Running, bird_photos: list[Path]) -> None:
    """A bird whose photo lies on its side or is mirrored, as its EXIF data says, gets the upright one's class."""
    transpose = Image.Transpose
    stored = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }
    upright = Image.open(bird_photos[0]).convert("RGB")
    with bundled_server.client() as client:
        expected = client.post("/classify", content=jpeg(upright), headers={"Content-Type": "image/jpeg"})
        for orientation, turn in stored.items():
            content = jpeg(upright.transpose(turn), orientation)
            answer = client.post("/classify", content=content, headers={"Content-Type": "image/jpeg"})
            assert (orientation, top_label(expected)) == (orientation, top_label(answer))
            assert upright.size == (answer.json()["width"], answer.json()["height"])


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    """Return a JPEG file that says how it lies."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def top_label(answer: httpx.Response) -> str:
    """Return the first class of an answer."""
    return str(answer.raise_for_status().json()["predictions"][0]["label"])


def test_rotated_birds(bundled_server: Running, bird_photos: list[Path]) -> None:
    """A bird stored in any of the eight orientations gets the same class, probabilities and sides."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation -> the transposition that makes it
    with bundled_server.client() as client:
        for path in bird_photos[::300]:
            with Image.open(path) as image:
                photo = image.convert("RGB")
            expected = classify(client, png(photo))
            for orientation, method in back.items():
                exif = Image.Exif()
                exif[0x0112] = orientation
                stored = png(photo.transpose(Image.Transpose(method)), exif)
                assert (orientation, expected) == (orientation, classify(client, stored))


def png(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    """Return an image as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    return stream.getvalue()


def classify(client: httpx.Client, data: bytes) -> tuple[object, ...]:
    """Return classes, probabilities and sides."""
    answer = client.post("/classify", content=data, headers={"Content-Type": "image/png"}).raise_for_status().json()
    return answer["predictions"], answer["width"], answer["height"]
