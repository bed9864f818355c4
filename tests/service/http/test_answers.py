"""Marks, novelty and sets in the answers of `/classify` and `/models`, and their refusals, over real connections."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from model.contract.sets import SetGroup, Sets, write_missed
from model.contract.taxonomy import Taxonomy
from service.http.answers import mark_note, mark_shares
from service.http.api.schemas import Classification, Classifications, Explanation, Models
from tests.service.conftest import encoded
from tests.service.http.test_routes import RAW, problem
from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import MARKS, marked_manifest, tiny_manifest, tiny_model, tiny_self_check


def test_classes_come_with_their_marks(marked_client: httpx.Client, spotted: bytes) -> None:
    """`marks` adds those seen of the first class, in words and in place, and those that are missing."""
    answer = marked_client.post("/classify?marks=3", content=spotted, headers=RAW).raise_for_status().json()
    result = Classification.model_validate(answer)
    assert "Red bird" == result.predictions[0].label
    assert result.marks is not None
    assert ["red crown", "чёрный глаз", "red wing"] == [one.name for one in result.marks]
    crown, eye, _ = answer["marks"]
    assert ["name", "part", "seen", "typical", "at", "evidence"] == list(crown)
    assert ["name", "part", "seen", "typical"] == list(eye)
    assert ("crown", 0.9, [115.0, 5.0]) == (crown["part"], crown["typical"], crown["at"])
    assert crown["evidence"] >= 1
    assert [] == answer["missing"]


def test_missing_marks_have_no_place(marked_client: httpx.Client, red_png: bytes, blue_jpeg: bytes) -> None:
    """What is typical of the class and not seen is listed apart, for each image its own."""
    files = [("file", ("blue.jpg", blue_jpeg)), ("file", ("bad.png", b"no image")), ("file", ("red.png", red_png))]
    answer = marked_client.post("/classify?marks=8", files=files).raise_for_status()
    blue, _, red = Classifications.model_validate(answer.json()).results
    assert ["blue wing", "чёрный глаз"] == [one.name for one in blue.marks or []]  # type: ignore[union-attr]
    assert ["red crown", "чёрный глаз", "red wing"] == [one.name for one in red.marks or []]  # type: ignore[union-attr]
    grey = io.BytesIO()
    Image.new("RGB", (20, 20), (60, 60, 60)).save(grey, "PNG")
    answer = marked_client.post("/classify?marks=8", content=grey.getvalue(), headers=RAW).raise_for_status()
    crown, wing = answer.json()["missing"]
    assert ["name", "part", "seen", "typical"] == list(crown)
    assert ("red crown", True, "red wing") == (crown["name"], crown["seen"] < 0.5, wing["name"])


def test_known_and_novelty(marked_client: httpx.Client, red_png: bytes) -> None:
    """Each photo is said to be like those of some class or of none; the nearest classes are named all the same."""
    white = encoded("white")
    files = [("file", ("red.png", red_png)), ("file", ("white.png", white))]
    red, unlike = marked_client.post("/classify", files=files).raise_for_status().json()["results"]
    assert ["predictions", "known", "novelty", "model"] == list(red)[:4]
    assert (True, 0.333) == (red["known"], red["novelty"])
    assert (False, 1.0, 4) == (unlike["known"], unlike["novelty"], len(unlike["predictions"]))
    for photo, known in ((red_png, "true"), (white, "false")):
        picture = marked_client.post("/explain", content=photo, headers=RAW).raise_for_status()
        assert known == picture.headers["x-fieldmark-known"]
        assert ("0.333" if known == "true" else "1.000") == picture.headers["x-fieldmark-novelty"]
        answer = marked_client.post("/explain", content=photo, headers={**RAW, "Accept": "application/json"})
        assert (known == "true") == Explanation.model_validate(answer.json()).known


def test_a_model_without_novelty_says_nothing_of_it(client: httpx.Client, red_png: bytes) -> None:
    """Neither in its answers nor in the header of a picture."""
    answer = client.post("/classify", content=red_png, headers=RAW).raise_for_status().json()
    members = ["predictions", "model", "filename", "width", "height", "request_id"]
    assert members == list(answer)
    assert "x-fieldmark-known" not in client.post("/explain", content=red_png, headers=RAW).headers


def test_missing_is_not_served_untested(tmp_path_factory: pytest.TempPathFactory, red_png: bytes) -> None:
    """A model whose marks did not pass the tests of being seen never calls one missing."""
    folder = tmp_path_factory.mktemp("untested")
    settings = tiny_settings(folder)
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(marked_manifest(missing=False)))
    with running(settings) as server, server.client() as client:
        answer = client.post("/classify?marks=3", content=red_png, headers=RAW).raise_for_status().json()
    assert ("marks" in answer, "missing" in answer) == (True, False)


def test_plain_answers_are_as_before(marked_client: httpx.Client, client: httpx.Client, red_png: bytes) -> None:
    """Who does not ask for marks gets none, from either version of a model."""
    with_marks, without = (
        one.post("/classify", content=red_png, headers=RAW).raise_for_status().json() for one in (marked_client, client)
    )
    assert list(without) == [name for name in with_marks if name not in ("known", "novelty")]
    assert without["predictions"] == with_marks["predictions"]


@pytest.mark.parametrize("marks", ["0", "9", "-1", "x", "1.5", ""])
def test_numbers_of_marks_out_of_range(
    marked_server: Running, marked_client: httpx.Client, red_png: bytes, marks: str
) -> None:
    """One to eight, else the parameter is named, before the model runs."""
    runs = marked_server.runs()
    for address in ("/classify", "/explain"):
        document = problem(
            marked_client.post(f"{address}?marks={marks}", content=red_png, headers=RAW), 422, "invalid_option"
        )
        assert ["marks"] == [one.name for one in document.invalid or []]
    assert runs == marked_server.runs()


@pytest.mark.parametrize(
    "query",
    ["/classify?marks=1", "/explain?marks=1", "/explain?mark=rank:1", "/explain?view=marks", "/explain?mark_maps=true"],
)
def test_a_model_without_marks_says_so(tiny_server: Running, client: httpx.Client, red_png: bytes, query: str) -> None:
    """A model of version 1 is asked for marks in vain, before it runs."""
    runs = tiny_server.runs()
    document = problem(client.post(query, content=red_png, headers=RAW), 422, "no_marks")
    assert ("The model tiny has no field marks.", runs) == (document.detail, tiny_server.runs())


def test_models_list_what_they_can(marked_client: httpx.Client, client: httpx.Client) -> None:
    """Names and parts of marks in the order of their index, the embedding's length, and whether novelty is known."""
    (able,), (plain,) = (
        Models.model_validate(one.get("/models").raise_for_status().json()).models for one in (marked_client, client)
    )
    expected = [(index, mark.name, mark.part) for index, mark in enumerate(MARKS)]
    assert expected == [(one.index, one.name, one.part) for one in able.marks]
    assert (3, True) == (able.embedding, able.novelty)
    assert ([], None, False) == (plain.marks, plain.embedding, plain.novelty)


@pytest.mark.parametrize(
    ("changes", "versus", "shares", "note"),
    [
        ({}, "", "seen 97%, typical 93%", ""),
        ({"typical_versus": 0.12}, "Cape May Warbler", "seen 97%, typical 93% (Cape May Warbler 12%)", ""),
        ({"typical": None, "typical_versus": None}, "X", "seen 97%, typical ? (X ?)", ""),
        ({"evidence": 0.99}, "", "seen 97%, typical 93%", "not where the decision looked"),
        ({"evidence": None}, "", "seen 97%, typical 93%", ""),
        ({"at": None}, "", "seen 97%, typical 93%", "its place is not known"),
    ],
)
def test_words_of_a_mark(changes: dict[str, float | None], versus: str, shares: str, note: str) -> None:
    """What people read of a mark, and what keeps it honest."""
    mark = {"name": "yellow crown", "seen": 0.97, "typical": 0.93, "at": [1.0, 2.0], "evidence": 1.0} | changes
    assert (shares, note) == (mark_shares(mark, versus), mark_note(mark))


@pytest.fixture(scope="module")
def set_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a model that makes sets and knows taxa: of nine photos, six are named rightly."""
    folder = tmp_path_factory.mktemp("sets")
    settings = tiny_settings(folder)
    group = SetGroup(num_photos=9, missed=write_missed(np.array([0.5, 0.03, 0.01])))
    rows = (("Ruber", "Aves"), ("Viridis", "Aves"), ("Viridis", "Pisces"), ("Ruber", "Aves"))
    manifest = tiny_manifest(
        sets=Sets(groups=(group,)),
        taxonomy=Taxonomy(ranks=("genus", "phylum"), rows=rows),
        self_check=tiny_self_check(),
    )
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(manifest))
    with running(settings) as server, server.client() as client:
        yield client


@pytest.mark.parametrize(
    ("coverage", "labels", "taxon"),
    [
        (0.5, ["Red bird"], {"rank": "class", "name": "Red bird"}),
        (0.8, ["Red bird", "Grey bird"], {"rank": "genus", "name": "Ruber"}),
        (0.999, ["Red bird", "Grey bird", "Green bird", "Blue bird"], None),
    ],
)
def test_sets_and_their_taxa(
    set_client: httpx.Client, red_png: bytes, coverage: float, labels: list[str], taxon: dict[str, str] | None
) -> None:
    """`coverage` adds the set, the likeliest first, and the lowest taxon that all of it shares, to both answers."""
    plain = set_client.post("/classify", content=red_png, headers=RAW).raise_for_status().json()
    for address, schema in (("/classify", Classification), ("/explain", Explanation)):
        headers = RAW | {"Accept": "application/json"}
        answer = set_client.post(f"{address}?coverage={coverage}", content=red_png, headers=headers).raise_for_status()
        schema.model_validate(answer.json())
        assert {"set": labels, "taxon": taxon} == {name: answer.json()[name] for name in ("set", "taxon")}
    assert not {"set", "taxon"} & set(plain)


def test_without_taxonomy_a_set_has_no_taxon(marked_client: httpx.Client, set_client: httpx.Client) -> None:
    """`/models` says what there is."""
    found = [one.get("/models").raise_for_status().json()["models"][0] for one in (marked_client, set_client)]
    assert [(False, []), (True, ["genus", "phylum"])] == [(one["sets"], one["taxonomy"]) for one in found]


@pytest.mark.parametrize("coverage", ["0", "1", "-0.1", "1.5", "nan", "inf", "x", ""])
def test_coverages_out_of_range(set_client: httpx.Client, red_png: bytes, coverage: str) -> None:
    """Between 0 and 1, else the parameter is named."""
    for address in ("/classify", "/explain"):
        answer = set_client.post(f"{address}?coverage={coverage}", content=red_png, headers=RAW)
        assert ["coverage"] == [one.name for one in problem(answer, 422, "invalid_option").invalid or []]


@pytest.mark.parametrize("address", ["/classify", "/explain"])
def test_a_model_without_sets_says_so(tiny_server: Running, client: httpx.Client, red_png: bytes, address: str) -> None:
    """A model without calibration is asked in vain, before it runs; for a picture, too."""
    runs = tiny_server.runs()
    document = problem(client.post(f"{address}?coverage=0.9", content=red_png, headers=RAW), 422, "no_sets")
    assert ("The model tiny has no calibration for sets.", runs) == (document.detail, tiny_server.runs())
