"""An exported file with marks, served: every answer is what the file's own outputs say, in words and in place."""

import base64
import io
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model.contract.manifest import Manifest, Marks, synthetic_images
from model.contract.marks import evidence, read_table
from model.export.running import run
from model.photo.decode import decode_image, prepare
from model.photo.limits import ImageLimits
from service.http.api.schemas import Classification, Explanation, Models
from service.settings import Settings
from tests.model.networks import CLASSES, EMBEDDING, MARK_GRID, MARKS, Exported
from tests.service.running import PATIENCE_S, Running, running

RANKS = list(range(-1, -9, -1))
WIDTH, HEIGHT = 200, 120
PHOTO = io.BytesIO()
Image.fromarray(synthetic_images(11, 1, WIDTH)[0][:HEIGHT]).save(PHOTO, "PNG")
RAW = {"Content-Type": "image/png", "Accept": "application/json"}


@pytest.fixture(scope="module")
def served(marked: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server of the exported file."""
    path = tmp_path_factory.mktemp("models") / "tiny" / "2.onnx"
    path.parent.mkdir()
    shutil.copy(marked.path, path)
    settings = Settings(model=path.parents[1], device="cpu", request_timeout_ms=PATIENCE_S * 1000)
    with running(settings) as server:
        yield server


@pytest.fixture
def client(served: Running) -> Iterator[httpx.Client]:
    """Return a client of it."""
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def manifest(served: Running) -> Manifest:
    """Return the file's manifest."""
    return served.runtime.models.get().manifest


@pytest.fixture(scope="module")
def marks(manifest: Manifest) -> Marks:
    """Return its marks."""
    assert manifest.marks is not None
    return manifest.marks


def outputs(
    marked: Exported, manifest: Manifest, target: list[int], versus: list[int], mark: list[int]
) -> dict[str, Any]:
    """Return the file's own outputs for the photo, run without the service."""
    image = prepare(decode_image(PHOTO.getvalue(), ImageLimits()), manifest.resize)[None]
    codes = [np.array([row], dtype=np.int64) for row in (target, versus, mark)]
    return {name: values[0] for name, values in run(marked.runtime, image, *codes[:2], mark=codes[2]).items()}


def place(values: npt.NDArray[np.float32], manifest: Manifest) -> list[float]:
    """Return the middle of a map's highest cell in the photo."""
    row, column = np.unravel_index(values.argmax(), values.shape)
    left, top, right, bottom = manifest.resize.source_box(WIDTH, HEIGHT)
    x, y = (column + 0.5) / MARK_GRID * (right - left), (row + 0.5) / MARK_GRID * (bottom - top)
    return [round(float(left + x), 1), round(float(top + y), 1)]


def test_classes_come_with_the_files_marks(
    client: httpx.Client, marked: Exported, manifest: Manifest, marks: Marks
) -> None:
    """Seen marks by the graph's ranks, each with its own probability, share, place and evidence."""
    answer = client.post("/classify?marks=8", content=PHOTO.getvalue(), headers=RAW).raise_for_status()
    result = Classification.model_validate(answer.json())
    raw = outputs(marked, manifest, [-1], [CLASSES], RANKS)
    typical = np.nan_to_num(read_table(marks.table, CLASSES, len(MARKS)))[result.predictions[0].index]
    expected = [
        (marks.marks[index].name, index, slot)
        for slot, index in enumerate(raw["marked"].tolist())
        if raw["marks"][index] >= marks.seen and typical[index] > 0
    ]
    assert result.marks is not None
    assert len(expected) >= 2
    assert [name for name, _, _ in expected] == [one.name for one in result.marks]
    scores = [one.seen * (one.typical or 0) for one in result.marks]
    assert sorted(scores, reverse=True) == pytest.approx(scores, abs=1e-3)
    shown = Image.fromarray(raw["gradcam"][0]).resize((MARK_GRID, MARK_GRID), Image.Resampling.BILINEAR)
    for one, (_, index, slot) in zip(result.marks, expected, strict=True):
        assert pytest.approx(float(raw["marks"][index]), abs=1e-5) == one.seen
        assert pytest.approx(float(typical[index]), abs=1e-3) == one.typical
        assert place(raw["mark_maps"][slot], manifest) == one.at
        assert pytest.approx(evidence(np.asarray(shown), raw["mark_maps"][slot]), abs=0.006) == one.evidence
    assert result.missing is None


def test_a_contrast_reads_the_positive_difference(
    client: httpx.Client, marked: Exported, manifest: Manifest, marks: Marks
) -> None:
    """The marks are ranked by both rows of the table, and their evidence is of the map of A − B."""
    table = read_table(marks.table, CLASSES, len(MARKS))
    names = [mark.name for mark in marks.marks]
    listed: list[str] = []
    # What does not distinguish A from B speaks for B.
    for target, versus in ((1, 3), (3, 1)):
        query = f"marks=8&target=class:{target}&versus=class:{versus}"
        answer = client.post(f"/explain?{query}", content=PHOTO.getvalue(), headers=RAW).raise_for_status()
        result = Explanation.model_validate(answer.json())
        raw = outputs(marked, manifest, [target, versus], [versus, target], RANKS)
        shown = Image.fromarray(raw["gradcam"][0]).resize((MARK_GRID, MARK_GRID), Image.Resampling.BILINEAR)
        for one in result.marks or []:
            index = names.index(one.name)
            slot = raw["marked"].tolist().index(index)
            shares = [float(table[row, index]) for row in (target, versus)]
            assert pytest.approx(shares, abs=1e-3) == [one.typical, one.typical_versus]
            assert shares[0] > shares[1]
            assert pytest.approx(evidence(np.asarray(shown), raw["mark_maps"][slot]), abs=0.006) == one.evidence
            listed.append(one.name)
    assert listed
    assert len(set(listed)) == len(listed)


def test_one_marks_map_is_the_files(client: httpx.Client, marked: Exported, manifest: Manifest, marks: Marks) -> None:
    """By name, by index, and by rank."""
    raw = outputs(marked, manifest, [-1], [CLASSES], [7, -2])
    second = int(raw["marked"][1])
    for name, slot, index in ((marks.marks[7].name, 0, 7), ("mark:7", 0, 7), ("rank:2", 1, second)):
        query = {"mark": name, "values": "true"}
        answer = client.post("/explain", params=query, content=PHOTO.getvalue(), headers=RAW).raise_for_status()
        mark = Explanation.model_validate(answer.json()).mark
        assert mark is not None
        assert marks.marks[index].name == mark.name
        np.testing.assert_allclose(np.array(mark.values), raw["mark_maps"][slot], atol=1e-5)


def test_models_and_tensors_are_the_files(client: httpx.Client, marked: Exported, manifest: Manifest) -> None:
    """`/models` names the marks, and the Open Inference Protocol answers with the graph's outputs."""
    (model,) = Models.model_validate(client.get("/models").raise_for_status().json()).models
    assert ["yellow crown", "black crown"] == [mark.name for mark in model.marks[:2]]
    assert (len(MARKS), EMBEDDING) == (len(model.marks), model.embedding)
    encoded = {
        "name": "encoded",
        "shape": [1],
        "datatype": "BYTES",
        "data": [base64.b64encode(PHOTO.getvalue()).decode()],
    }
    mark = {"name": "mark", "shape": [1, 2], "datatype": "INT64", "data": [4, -1]}
    answer = client.post("/v2/models/tiny/infer", json={"inputs": [encoded, mark]}).raise_for_status().json()
    raw = outputs(marked, manifest, [-1], [CLASSES], [4, -1])
    found = {one["name"]: np.array(one["data"]).reshape(one["shape"])[0] for one in answer["outputs"]}
    assert {*raw, "label", "known", "novelty_quantile"} == set(found)
    for name, values in raw.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=name)
