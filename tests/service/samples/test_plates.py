"""The drawn plates: renders of their sources, and birds to the bundled model."""

import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from model.photo.decode import decode_image, prepare
from service.inference.engine import OnnxEngine, Outputs, Question
from service.samples.plates import PLATES, Plate
from service.settings import BUNDLED_MODEL, Settings

FOLDER = Path(__file__).parents[3] / "service" / "samples"
BOTH = pytest.mark.parametrize("repainted", [False, True])
EACH = pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    """Return the newest bundled model."""
    newest = max(BUNDLED_MODEL.glob("cub50/?.onnx"), key=lambda path: int(path.stem.partition(".")[0]))
    return OnnxEngine(newest.read_bytes(), Settings(device="cpu"))


def answer(engine: OnnxEngine, plate: Plate, *, repainted: bool = False) -> Outputs:
    """Return the model's answer to a plate."""
    pixels = prepare(decode_image(plate.picture(repainted=repainted)), engine.manifest.resize)
    return engine.run(pixels[None], Question.about(engine.manifest))


@EACH
@BOTH
def test_pictures_are_renders_of_their_sources(plate: Plate, repainted: bool) -> None:
    """The PNG records the SHA-256 of the SVG that it was made of, and is small enough for a page and the wheel."""
    source = (FOLDER / f"{plate.name}.svg").read_bytes()
    data = plate.picture(repainted=repainted)
    with Image.open(io.BytesIO(data)) as picture:
        assert (hashlib.sha256(source).hexdigest(), True) == (picture.info["svg-sha256"], len(data) < 60_000)


@EACH
def test_the_bundled_model_names_each_bird(plate: Plate, engine: OnnxEngine) -> None:
    """The bird comes first, more than half sure; its look-alike is another plate."""
    probabilities = answer(engine, plate).probabilities[0]
    assert plate.label == engine.manifest.labels[int(probabilities.argmax())]
    assert probabilities.max() > 0.5
    assert plate.rival in {other.label for other in PLATES} - {plate.label}


@EACH
def test_a_repainted_mark_is_missed(plate: Plate, engine: OnnxEngine) -> None:
    """Without its mark the bird is less sure, or a mark of that colour is hardly seen any more."""
    before, after = answer(engine, plate), answer(engine, plate, repainted=True)
    index, marks = engine.manifest.labels.index(plate.label), engine.manifest.marks
    assert marks is not None
    assert before.marks is not None
    assert after.marks is not None
    colour = plate.mark.split()[0]
    of_colour = [slot for slot, mark in enumerate(marks.marks) if mark.name.startswith(colour)]
    fall = (before.marks - after.marks)[0, of_colour].max()
    assert after.probabilities[0, index] < before.probabilities[0, index] or fall > 0.1
