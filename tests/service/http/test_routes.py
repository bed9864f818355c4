"""Both endpoints and `/models` over a real connection, with the tiny model."""

import base64
import io
import urllib.parse

import httpx
import pytest
from PIL import Image

from service.http.api.schemas import Classification, Classifications, Explanation, Explanations, Models, Problem
from tests.service.conftest import encoded
from tests.service.running import Running
from tests.service.tiny_model import LABELS

RAW = {"Content-Type": "image/png"}


def problem(answer: httpx.Response, status: int, code: str) -> Problem:
    """Return the problem of an answer, after checking what all problems have in common."""
    assert (status, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    document = Problem.model_validate(answer.json())
    assert (code, status, f"/errors#{code}") == (document.code, document.status, document.type)
    assert answer.headers["x-request-id"] == document.request_id
    return document


def test_classify_raw_body(client: httpx.Client, red_png: bytes) -> None:
    """One image as the raw body gets a flat answer that matches the schema."""
    answer = client.post("/classify", content=red_png, headers=RAW).raise_for_status()
    result = Classification.model_validate(answer.json())
    assert "Red bird" == result.predictions[0].label
    assert (12, 10, None) == (result.width, result.height, result.filename)
    assert "tiny" == result.model.name
    assert answer.headers["x-request-id"] == result.request_id
    assert len(LABELS) == len(result.predictions)
    assert "accepted" not in answer.json()


def test_classify_form(client: httpx.Client, blue_jpeg: bytes) -> None:
    """One image in a form gets the same flat answer, with its file's name."""
    answer = client.post("/classify", files={"file": ("sky/blå.jpg", blue_jpeg)}).raise_for_status().json()
    assert ("Blue bird", "blå.jpg") == (answer["predictions"][0]["label"], answer["filename"])


def test_classify_many(client: httpx.Client, red_png: bytes, blue_jpeg: bytes) -> None:
    """Several images get their answers in order, with a problem in place of a bad one."""
    files = [
        ("file", ("a.png", red_png)),
        ("file", ("b.txt", b"no image")),
        ("file", ("c.jpg", blue_jpeg)),
        ("file", b""),
    ]
    answer = client.post("/classify?top_k=1", files=files).raise_for_status()
    results = Classifications.model_validate(answer.json()).results
    assert ["a.png", "b.txt", "c.jpg"] == [result.filename for result in results[:3]]
    assert ["Red bird", "Blue bird"] == [results[i].predictions[0].label for i in (0, 2)]  # type: ignore[union-attr]
    assert ["unsupported_image_type", "empty_input"] == [results[i].code for i in (1, 3)]  # type: ignore[union-attr]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (1000, 4)])
def test_top_k(client: httpx.Client, red_png: bytes, top_k: int, count: int) -> None:
    """`top_k` names that many classes, the likeliest first, and never more than there are."""
    answer = client.post(f"/classify?top_k={top_k}", content=red_png, headers=RAW).raise_for_status().json()
    shares = [one["probability"] for one in answer["predictions"]]
    assert count == len(shares)
    assert sorted(shares, reverse=True) == shares


@pytest.mark.parametrize(("threshold", "accepted"), [(0, True), (0.5, True), (1, False)])
def test_threshold(client: httpx.Client, red_png: bytes, threshold: float, accepted: bool) -> None:
    """`threshold` adds whether the first class is likely enough."""
    answer = client.post(f"/classify?threshold={threshold}", content=red_png, headers=RAW).raise_for_status().json()
    assert accepted == answer["accepted"]


def test_model_by_name(client: httpx.Client, red_png: bytes) -> None:
    """A model and version can be named; unknown ones are refused."""
    ok = client.post("/classify?model=tiny&version=1", content=red_png, headers=RAW)
    assert 200 == ok.status_code
    problem(client.post("/classify?model=huge", content=red_png, headers=RAW), 404, "unknown_model")
    problem(client.post("/classify?version=7", content=red_png, headers=RAW), 404, "unknown_model")


@pytest.mark.parametrize(
    "query",
    ["top_k=0", "top_k=1001", "top_k=x", "threshold=1.5", "threshold=nan", "topk=1", "model=" + "m" * 65],
)  # fmt: skip
def test_bad_options(client: httpx.Client, red_png: bytes, query: str) -> None:
    """A bad option is named with the reason, and its value is not repeated."""
    document = problem(client.post(f"/classify?{query}", content=red_png, headers=RAW), 422, "invalid_option")
    name, _, value = query.partition("=")
    assert document.invalid is not None
    assert [name] == [one.name for one in document.invalid]
    assert len(value) < 2 or value not in document.invalid[0].reason


def test_empty_and_wrong_bodies(client: httpx.Client, red_png: bytes) -> None:
    """No image, a wrong type, a coded body and a broken form each have their own problem."""
    problem(client.post("/classify"), 400, "empty_input")
    problem(client.post("/classify", content=b"", headers=RAW), 400, "empty_input")
    problem(client.post("/classify", data={"name": "x"}), 415, "unsupported_image_type")
    problem(client.post("/classify", files={"image": red_png}), 400, "empty_input")
    problem(
        client.post("/classify", content=red_png, headers={"Content-Type": "text/plain"}), 415, "unsupported_image_type"
    )
    problem(
        client.post("/classify", content=red_png, headers={**RAW, "Content-Encoding": "gzip"}),
        415,
        "unsupported_image_type",
    )
    form = {"Content-Type": "multipart/form-data"}
    problem(client.post("/classify", content=b"x", headers=form), 400, "malformed_request")
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(client.post("/classify", content=b"--b\r\nbroken", headers=form), 400, "malformed_request")


def test_too_many_files(client: httpx.Client, red_png: bytes) -> None:
    """More images than allowed are refused as a whole."""
    files = [("file", red_png)] * 33
    problem(client.post("/classify", files=files), 413, "too_large")


def test_unknown_addresses(client: httpx.Client) -> None:
    """Unknown addresses and methods have problems too."""
    problem(client.get("/nothing"), 404, "not_found")
    answer = client.get("/classify")
    problem(answer, 405, "method_not_allowed")
    assert "POST" == answer.headers["allow"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/jpeg, image/png;q=0.5", "image/jpeg"),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.1", "application/json"),
    ],
)
def test_explain_negotiates(client: httpx.Client, red_png: bytes, accept: str | None, media_type: str) -> None:
    """`Accept` chooses between PNG, WebP, JPEG and JSON."""
    headers = {**RAW, **({"Accept": accept} if accept else {})}
    answer = client.post("/explain", content=red_png, headers=headers).raise_for_status()
    assert media_type == answer.headers["content-type"]
    if media_type.startswith("image/"):
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (media_type, (12, 10)) == (Image.MIME[image.format or ""], image.size)


@pytest.mark.parametrize("view", ["overlay", "gradcam", "attention", "panel"])
def test_explain_views(client: httpx.Client, red_png: bytes, view: str) -> None:
    """Every view is a picture, with the class in the headers."""
    answer = client.post(
        f"/explain?view={view}&colormap=viridis&opacity=0.3&size=64&threshold=0.9", content=red_png, headers=RAW
    )
    answer.raise_for_status()
    assert "Red bird" == urllib.parse.unquote(answer.headers["x-fieldmark-label"])
    assert 0 < float(answer.headers["x-fieldmark-probability"]) <= 1
    assert answer.headers["x-fieldmark-accepted"] in {"true", "false"}
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.width >= 64


def test_explain_json(client: httpx.Client, red_png: bytes) -> None:
    """JSON has the maps as layers of the image's size, with raw values on request."""
    headers = {**RAW, "Accept": "application/json"}
    answer = client.post(
        "/explain?target=green%20bird&values=true", content=red_png, headers=headers
    ).raise_for_status()
    result = Explanation.model_validate(answer.json())
    assert ("Green bird", 1) == (result.target.label, result.target.index)
    assert result.versus is None
    assert "gradcam_versus" not in answer.json()
    assert (8, 8) == (len(result.gradcam.values or []), len((result.gradcam.values or [[]])[0]))
    assert result.attention is not None
    assert [8, 8] == result.attention.shape
    header, _, data = result.gradcam.png.partition(",")
    assert "data:image/png;base64" == header
    with Image.open(io.BytesIO(base64.b64decode(data))) as layer:
        assert ("RGBA", (12, 10)) == (layer.mode, layer.size)


def test_explain_versus(client: httpx.Client, red_png: bytes) -> None:
    """With `versus` the answer has both directions of the contrast."""
    headers = {**RAW, "Accept": "application/json"}
    answer = client.post("/explain?target=rank:1&versus=rank:2", content=red_png, headers=headers).raise_for_status()
    result = Explanation.model_validate(answer.json())
    assert result.versus is not None
    assert result.target.label != result.versus.label
    assert result.gradcam_versus is not None


def test_explain_same_class_twice(client: httpx.Client, red_png: bytes) -> None:
    """A class is not contrasted with itself, however the two are named."""
    answer = client.post("/explain?target=rank:1&versus=Red%20bird", content=red_png, headers=RAW)
    problem(answer, 422, "invalid_option")


def test_explain_unknown_class(client: httpx.Client, red_png: bytes) -> None:
    """An unknown label is answered with similar ones."""
    document = problem(client.post("/explain?target=Read%20bird", content=red_png, headers=RAW), 422, "unknown_class")
    assert document.nearest is not None
    assert "Red bird" == document.nearest[0]


@pytest.mark.parametrize(
    "query", ["target=class:4", "target=class:-1", "target=rank:0", "target=rank:5", "versus=zebra"]
)
def test_explain_codes_out_of_range(client: httpx.Client, red_png: bytes, query: str) -> None:
    """Codes outside the model's classes are refused, never wrapped."""
    problem(client.post(f"/explain?{query}", content=red_png, headers=RAW), 422, "unknown_class")


@pytest.mark.parametrize("query", ["layer=1", "view=map", "colormap=rainbow", "opacity=2", "size=8", "size=5000"])
def test_explain_bad_options(client: httpx.Client, red_png: bytes, query: str) -> None:
    """Options outside their range are refused."""
    problem(client.post(f"/explain?{query}", content=red_png, headers=RAW), 422, "invalid_option")


@pytest.mark.parametrize("name", ["target", "versus"])
@pytest.mark.parametrize(
    "value",
    [
        "class:50", "class:-1", "class:4294967296", "class:" + "9" * 40, "class:\u0663", "class:\uff13", "class:1.0",
        "class:+1", "class:", "rank:0", "rank:51", "rank:-1", "rank:" + "9" * 40, "rank:\u0662", "rank:1,rank:2",
        "rank", "", " ", "\0", "x" * 200,
    ],
)  # fmt: skip
def test_classes_that_the_model_has_not(bundled_server: Running, name: str, value: str) -> None:
    """What names no class is refused before the model runs."""
    with bundled_server.client() as client:
        runs = bundled_server.runs()
        answer = client.post("/explain", params={name: value}, content=encoded(), headers=RAW)
        problem(answer, 422, "unknown_class")
        assert runs == bundled_server.runs()


@pytest.mark.parametrize(
    "query",
    [
        "versus=rank:1", "target=rank:2&versus=rank:2", "target=class:3&versus=class:03",
        "target=Cardinal&versus=class:16", "target=cardinal&versus=CARDINAL", "target=rank:1&target=rank:1",
        "versus=rank:2&versus=rank:3", "target=rank:1&target=rank:2&versus=rank:3", "layer=0&layer=1", "layer=-1",
        "layer=", "layer=%D9%A1", "T=0", "T=9",
    ],
)  # fmt: skip
def test_questions_that_contradict_themselves(bundled_server: Running, query: str) -> None:
    """A class against itself, and a parameter with two values, are refused before the model runs."""
    with bundled_server.client() as client:
        runs = bundled_server.runs()
        problem(client.post(f"/explain?{query}", content=encoded(), headers=RAW), 422, "invalid_option")
        assert runs == bundled_server.runs()


def test_a_contrast_that_only_the_image_can_refuse(bundled_server: Running) -> None:
    """A class that turns out to have the rank it is contrasted with is refused, alone and among other images."""
    photo = encoded("teal", (90, 60))
    with bundled_server.client() as client:
        answer = client.post("/classify?top_k=2", content=photo, headers=RAW).raise_for_status()
        second = Classification.model_validate(answer.json()).predictions[1]
        for query in (f"target=class:{second.index}&versus=rank:2", f"target=rank:2&versus={second.label}"):
            problem(client.post(f"/explain?{query}", content=photo, headers=RAW), 422, "invalid_option")
            answer = client.post(f"/explain?{query}", files=[("file", photo), ("file", photo)]).raise_for_status()
            results = Explanations.model_validate(answer.json()).results
            assert ["invalid_option"] * 2 == [result.code for result in results]  # type: ignore[union-attr]


@pytest.mark.parametrize("address", ["/classify", "/explain"])
def test_options_in_the_form(client: httpx.Client, red_png: bytes, address: str) -> None:
    """An option as a part of the form would be ignored: it is refused, other parts are not."""
    files = {"file": ("a.png", red_png)}
    client.post(address, files=files, data={"comment": "from my garden"}).raise_for_status()
    detail = problem(client.post(address, files=files, data={"target": "class:2"}), 422, "invalid_option").detail
    assert "`target` is a parameter of the query" in detail


@pytest.mark.parametrize("query", ["top_k=1&top_k=2", "model=", "version=", "top_k=%D9%A3", "top_k=" + "9" * 40, "T=1"])
def test_classify_bad_options(client: httpx.Client, red_png: bytes, query: str) -> None:
    """Options with two values, none, or one that is no number are refused."""
    problem(client.post(f"/classify?{query}", content=red_png, headers=RAW), 422, "invalid_option")


def test_explain_layers_by_name(bundled_server: Running) -> None:
    """A layer's name and its index in `/models` give the same map, another layer a different one; unknown ones fail."""
    photo, headers = encoded("teal", (90, 60)), {**RAW, "Accept": "application/json"}
    with bundled_server.client() as client:
        (model,) = Models.model_validate(client.get("/models").raise_for_status().json()).models
        maps = set()
        for layer in model.layers:
            by_index, by_name = (
                client.post("/explain", params={"layer": one, "values": True}, content=photo, headers=headers).json()
                for one in (layer.index, layer.name)
            )
            assert by_index["gradcam"] == by_name["gradcam"]
            assert (layer.name, layer.shape) == (by_name["layer"], by_name["gradcam"]["shape"])
            maps.add(str(by_name["gradcam"]["values"]))
        assert len(model.layers) == len(maps)
        for unknown in ("features.99", str(len(model.layers)), "-1", ""):
            answer = client.post("/explain", params={"layer": unknown}, content=photo, headers=headers)
            detail = problem(answer, 422, "invalid_option").detail
            assert all(f"`{layer.name}`" in detail for layer in model.layers)


def test_explain_many(client: httpx.Client, red_png: bytes, blue_jpeg: bytes) -> None:
    """Several images get JSON, and 406 where only a picture would do."""
    files = [("file", red_png), ("file", b"junk"), ("file", blue_jpeg)]
    results = Explanations.model_validate(client.post("/explain", files=files).raise_for_status().json()).results
    assert ["Red bird", "Blue bird"] == [results[i].target.label for i in (0, 2)]  # type: ignore[union-attr]
    assert isinstance(results[1], Problem)
    problem(client.post("/explain", files=files, headers={"Accept": "image/png"}), 406, "not_acceptable")


def test_not_acceptable(client: httpx.Client, red_png: bytes) -> None:
    """A form that is not available is refused before any work."""
    for address in ("/classify", "/explain"):
        answer = client.post(address, content=red_png, headers={**RAW, "Accept": "text/html"})
        problem(answer, 406, "not_acceptable")


def test_accept_in_several_lines(client: httpx.Client, red_png: bytes) -> None:
    """A header in several lines is one list (RFC 9110, section 5.3)."""
    headers = [("Content-Type", "image/png"), ("Accept", "text/html"), ("Accept", "image/webp")]
    assert "image/webp" == client.post("/explain", content=red_png, headers=headers).headers["content-type"]


def test_threshold_of_a_picture(client: httpx.Client, red_png: bytes) -> None:
    """A probability that is sent back as the threshold accepts its image, as a picture and as JSON."""
    header = client.post("/explain", content=red_png, headers=RAW).headers["x-fieldmark-probability"]
    shown = client.post("/classify", content=red_png, headers=RAW).json()["predictions"][0]["probability"]
    assert shown == float(header)
    picture = client.post(f"/explain?threshold={shown}", content=red_png, headers=RAW)
    answer = client.post(f"/classify?threshold={shown}", content=red_png, headers=RAW)
    assert ("true", True) == (picture.headers["x-fieldmark-accepted"], answer.json()["accepted"])


def test_models(client: httpx.Client) -> None:
    """`/models` lists labels and layers."""
    (info,) = Models.model_validate(client.get("/models").raise_for_status().json()).models
    assert (list(LABELS), 8, "CPUExecutionProvider") == (info.labels, info.input_size, info.provider)
    assert ["pixels"] == [layer.name for layer in info.layers]


def test_common_headers(client: httpx.Client, red_png: bytes) -> None:
    """Every answer has its id and its timing; a valid id of the client is kept, another replaced."""
    headers = {**RAW, "X-Request-Id": "abc-123"}
    answer = client.post("/explain", content=red_png, headers=headers).raise_for_status()
    assert ("abc-123", "no-store") == (answer.headers["x-request-id"], answer.headers["cache-control"])
    stages = [part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert ["decode", "queue", "infer", "render", "total"] == stages
    odd = client.get("/livez", headers={"X-Request-Id": "a b<script>"})
    assert 32 == len(odd.headers["x-request-id"])
    assert odd.headers["server-timing"].startswith("total;dur=")


def test_exif_is_applied_to_the_sides(client: httpx.Client) -> None:
    """Width and height are those of the upright image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(stream, "JPEG", exif=exif)
    answer = client.post("/classify", content=stream.getvalue(), headers={"Content-Type": "image/jpeg"})
    assert (20, 40) == (answer.json()["width"], answer.json()["height"])


def test_percent_encoded_label(client: httpx.Client) -> None:
    """The class in the header is percent-encoded."""
    answer = client.post("/explain", content=encoded("lime"), headers=RAW).raise_for_status()
    assert "Green%20bird" == answer.headers["x-fieldmark-label"]


@pytest.mark.parametrize("address", ["/classify", "/explain"])
def test_bodies_under_a_type_that_says_nothing(client: httpx.Client, red_png: bytes, address: str) -> None:
    """Images are accepted under curl's default type and as bytes, other bytes are not; text is always refused."""
    curl, octets = "application/x-www-form-urlencoded", "application/octet-stream"
    for kind in (curl, octets, f"{curl}; charset=utf-8"):
        assert 200 == client.post(address, content=red_png, headers={"Content-Type": kind}).status_code
    for kind, content in ((curl, b"a=b&c=d"), (octets, b"a=b"), ("text/plain", red_png), ("text/plain", b"a")):
        answer = client.post(address, content=content, headers={"Content-Type": kind})
        problem(answer, 415, "unsupported_image_type")


@pytest.mark.parametrize("address", ["/classify", "/explain"])
def test_refusals_name_the_file(client: httpx.Client, red_png: bytes, address: str) -> None:
    """Refusals of one photo among many, and of a single one, name the file."""
    files = [("b\u00e4r.png", red_png[:50]), ("notes.txt", b"hello"), ("empty.png", b"")]
    for name, data in files:
        answer = client.post(address, files={"file": (name, data)})
        assert answer.json()["detail"].startswith(f"{name}: ")
    answer = client.post("/classify", files=[("file", file) for file in [("good.png", red_png), *files]])
    details = [result["detail"] for result in answer.json()["results"][1:]]
    assert all(detail.startswith(f"{name}: ") for (name, _), detail in zip(files, details, strict=True))
