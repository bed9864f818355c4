"""Field marks in `/explain`: in words, in place, as maps and as pictures, over a real connection."""

import base64
import io
import urllib.parse
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.http.api.schemas import Explanation, Explanations
from tests.service.conftest import encoded
from tests.service.http.test_routes import RAW, problem
from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import MARKS, SIDE, marked_manifest, tiny_model

AS_JSON = RAW | {"Accept": "application/json"}


def explained(client: httpx.Client, photo: bytes, query: str) -> dict[str, Any]:
    """Return the answer in JSON, which matches the schema."""
    answer: dict[str, Any] = client.post(f"/explain?{query}", content=photo, headers=AS_JSON).raise_for_status().json()
    Explanation.model_validate(answer)
    return answer


def test_marks_of_the_target(marked_client: httpx.Client, spotted: bytes) -> None:
    """They are of the class that is explained, not of the likeliest."""
    answer = explained(marked_client, spotted, "marks=8&target=Green bird")
    assert "Red bird" == answer["predictions"][0]["label"]
    assert ["чёрный глаз", "red crown", "red wing"] == [one["name"] for one in answer["marks"]]
    assert ["green throat"] == [one["name"] for one in answer["missing"]]


def test_marks_that_tell_one_class_from_another(marked_client: httpx.Client, spotted: bytes) -> None:
    """With `versus`, both shares are there, also of what is missing."""
    answer = explained(marked_client, spotted, "marks=8&target=rank:1&versus=Grey bird")
    assert [("red crown", 0.9, 0.4), ("red wing", 0.6, 0.4)] == [
        (one["name"], one["typical"], one["typical_versus"]) for one in answer["marks"]
    ]
    assert ["name", "part", "seen", "typical", "typical_versus", "at", "evidence"] == list(answer["marks"][0])
    reverse = explained(marked_client, spotted, "marks=8&target=Grey bird&versus=rank:1")
    assert [] == reverse["marks"]
    (throat,) = reverse["missing"]
    assert ("green throat", 0.7, 0.1) == (throat["name"], throat["typical"], throat["typical_versus"])
    assert "at" not in throat


@pytest.mark.parametrize("name", ["red wing", "RED WING", "mark:3"])
def test_one_mark_with_its_map(marked_client: httpx.Client, spotted: bytes, name: str) -> None:
    """A mark is named as a class is; its map has the raw values, and is drawn in the photo's size."""
    mark = explained(marked_client, spotted, f"mark={name}&values=true")["mark"]
    values = np.array(mark["values"])
    assert ("red wing", "wing", [115.0, 5.0], [SIDE, SIDE]) == (mark["name"], mark["part"], mark["at"], mark["shape"])
    assert (0, 7) == np.unravel_index(values.argmax(), values.shape)
    assert (pytest.approx(1, abs=1e-4), pytest.approx(values.max())) == (values.sum(), mark["max"])
    with Image.open(io.BytesIO(base64.b64decode(mark["png"].partition(",")[2]))) as layer:
        assert ("RGBA", (160, 80)) == (layer.mode, layer.size)


def test_a_mark_by_rank(marked_client: httpx.Client, spotted: bytes) -> None:
    """The marks of the ranks are those of the list, as long as all are seen; one without a place says so."""
    answer = explained(marked_client, spotted, "mark=rank:2&marks=7&mark_maps=true")
    assert answer["marks"][1].items() <= answer["mark"].items()
    assert ("чёрный глаз", "its place is not known") == (answer["mark"]["name"], answer["mark"]["note"])
    assert "at" not in answer["mark"]


def test_maps_of_all_listed_marks(marked_server: Running, marked_client: httpx.Client, spotted: bytes) -> None:
    """`mark_maps` adds the map of each mark of the list, from the same run; without a list there are none."""
    runs = marked_server.runs()
    answer = explained(marked_client, spotted, "marks=2&mark_maps=true&mark=blue wing&size=64")
    assert runs + 1 == marked_server.runs()
    assert 2 == len(answer["marks"]) == len(answer["mark_maps"])
    named = explained(marked_client, spotted, f"mark={answer['marks'][0]['name']}&size=64")["mark"]
    assert named.items() >= answer["mark_maps"][0].items()
    assert [] == explained(marked_client, spotted, "mark_maps=true")["mark_maps"]


def test_maps_of_listed_marks_are_small(marked_client: httpx.Client) -> None:
    """A page scales them up: their layers have at most 448 pixels a side, whatever the photo's or the wanted size."""
    photo = encoded("red", (900, 600))
    for query, sizes in (
        ("", [(900, 600), (448, 299)]),
        ("&size=1200", [(1200, 800), (448, 299)]),
        ("&size=90", [(90, 60)] * 2),
    ):
        answer = explained(marked_client, photo, f"marks=1&mark_maps=true{query}")
        layers = [answer["gradcam"]["png"], answer["mark_maps"][0]["png"]]
        assert sizes == [Image.open(io.BytesIO(base64.b64decode(layer.partition(",")[2]))).size for layer in layers]


@pytest.mark.parametrize("view", ["overlay", "gradcam", "panel"])
def test_pictures_of_a_mark(marked_client: httpx.Client, spotted: bytes, view: str) -> None:
    """The views of a map show that of the mark, and the headers name it; the panel shows it beside the others."""
    mark, plain = (
        marked_client.post(f"/explain?view={view}&{query}", content=spotted, headers=RAW).raise_for_status()
        for query in ("mark=rank:2", "")
    )
    assert "чёрный глаз" == urllib.parse.unquote(mark.headers["x-fieldmark-mark"])
    assert "x-fieldmark-mark" not in plain.headers
    assert mark.content != plain.content
    sizes = [Image.open(io.BytesIO(one.content)).size for one in (mark, plain)]
    assert (sizes[0][0] > sizes[1][0]) == (view == "panel")


def test_view_of_marks(marked_server: Running, marked_client: httpx.Client, spotted: bytes) -> None:
    """The photo with the places and the words, in one run, with the headers of every picture."""
    runs = marked_server.runs()
    answer = marked_client.post("/explain?view=marks&versus=rank:2", content=spotted, headers=RAW).raise_for_status()
    assert runs + 1 == marked_server.runs()
    assert "Red bird" == urllib.parse.unquote(answer.headers["x-fieldmark-label"])
    assert 0 < float(answer.headers["x-fieldmark-probability"]) <= 1
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert ("PNG", True) == (picture.format, picture.height > picture.width / 2)
    one, three = (
        marked_client.post(f"/explain?view=marks&marks={count}", content=spotted, headers=RAW).content
        for count in (1, 8)
    )
    heights = [Image.open(io.BytesIO(data)).height for data in (one, three)]
    assert heights[0] < heights[1]
    assert three == marked_client.post("/explain?view=marks", content=spotted, headers=RAW).content


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("mark=mark:5", "unknown_mark"), ("mark=rank:0", "unknown_mark"), ("mark=rank:6", "unknown_mark"),
        ("mark=rank:9", "unknown_mark"), ("mark=class:1", "unknown_mark"), ("mark=", "unknown_mark"),
        ("mark=mark:%D9%A1", "unknown_mark"), ("mark=" + "x" * 200, "unknown_mark"),
        ("mark=" + "x" * 201, "invalid_option"), ("mark=rank:1&mark=rank:2", "invalid_option"),
        ("mark=rank:1&view=attention", "invalid_option"), ("mark=rank:1&view=marks", "invalid_option"),
        ("mark=rank:1&marks=8", "invalid_option"), ("mark_maps=maybe", "invalid_option"),
    ],
)  # fmt: skip
def test_marks_that_are_refused(
    marked_server: Running, marked_client: httpx.Client, red_png: bytes, query: str, code: str
) -> None:
    """What names no mark, or contradicts itself, is refused before the model runs."""
    runs = marked_server.runs()
    problem(marked_client.post(f"/explain?{query}", content=red_png, headers=AS_JSON), 422, code)
    assert runs == marked_server.runs()


def test_an_unknown_mark_is_answered_with_similar_names(marked_client: httpx.Client, red_png: bytes) -> None:
    """As an unknown class is."""
    document = problem(
        marked_client.post("/explain?mark=red%20crwn", content=red_png, headers=RAW), 422, "unknown_mark"
    )
    assert document.nearest is not None
    assert (MARKS[0].name, 3) == (document.nearest[0], len(document.nearest))


def test_several_photos(marked_client: httpx.Client, red_png: bytes, blue_jpeg: bytes) -> None:
    """Each has the marks of its own class."""
    files = [("file", red_png), ("file", b""), ("file", blue_jpeg)]
    answer = marked_client.post(
        "/explain?marks=1&mark=blue%20wing", files=files, headers={"Accept": "application/json"}
    )
    results = Explanations.model_validate(answer.raise_for_status().json()).results
    assert ["red crown", "blue wing"] == [results[index].marks[0].name for index in (0, 2)]  # type: ignore[union-attr,index]
    assert {"blue wing"} == {results[index].mark.name for index in (0, 2)}  # type: ignore[union-attr]


def test_maps_are_drawn_where_their_cells_look(
    tmp_path_factory: pytest.TempPathFactory, marked_client: httpx.Client, spotted: bytes
) -> None:
    """Where the manifest says so: the colours move, the raw values stay, and the marks' own maps too."""
    folder = tmp_path_factory.mktemp("placed")
    settings = tiny_settings(folder)
    plain = marked_manifest()
    layers = (plain.layers[0].model_copy(update={"centres": (2.0, 2.0, 1.0, 1.0)}),)
    placed = plain.model_copy(update={"layers": layers, "placed_by_centres": True})
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(placed))
    with running(settings) as server, server.client() as client:
        here, there = (explained(one, spotted, "values=true&mark=red crown") for one in (client, marked_client))
        views = [
            one.post("/explain?view=gradcam", content=spotted, headers=RAW).content for one in (client, marked_client)
        ]
    for name in ("gradcam", "attention"):
        assert here[name]["png"] != there[name]["png"]
        assert [here[name][key] for key in ("min", "max", "values")] == [
            there[name][key] for key in ("min", "max", "values")
        ]
    assert here["mark"]["png"] == there["mark"]["png"]
    assert views[0] != views[1]
