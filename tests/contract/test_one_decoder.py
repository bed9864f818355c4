"""Training, evaluation and the service see the same pixels of every photo, through the code that each really calls.

A graph whose map is its own input shows what a network is given: the service's predictor and `evaluate` both run it.
"""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from model.contract.geometry import Resize
from model.contract.manifest import Layer
from model.network.network import build_network
from service.errors import FieldmarkError
from service.inference.engine import Question
from service.inference.runtime import Runtime
from service.settings import Settings
from tests.model.photo.files import encoded, oriented
from tests.model.photo.kinds import kinds
from tests.service.tiny_model import LABELS, tiny_manifest, tiny_model
from training.checkpoint import Selected, network_config
from training.data.batches import served_photos, training_photos
from training.data.samples import Dataset, Sample
from training.data.transforms import Normalise
from training.errors import DatasetError
from training.evaluation.evaluate import evaluate_file, evaluate_run, torch_predictor
from training.recipe import Recipe

Pixels = npt.NDArray[np.uint8]
RESIZE = Resize(size=56, crop=48)
"""Small, so that large JPEGs are decoded at an eighth and smaller ones at a half."""
SHIFTS = (1, 256, 65536)
"""Three bytes in one float32, exactly."""
REFUSED = {
    "LICENSE.exif-orientation-examples": "unsupported_image_type",
    "LICENSE.pillow": "unsupported_image_type",
    "broken.png": "undecodable_image",
    "decompression_bomb.gif": "too_many_pixels",
    "truncated_image.png": "undecodable_image",
    "truncated_jpeg.jpg": "undecodable_image",
    "zero_width.gif": "undecodable_image",
    "nothing.png": "empty_input",
}
"""And the code that the service gives."""


class Served(NamedTuple):
    """What the service sees of a file: the network's input (S, S, 3) and all pixels (h, w, 3)."""

    network_input: Pixels
    whole: Pixels


def echo_model() -> bytes:
    """Return a model whose Grad-CAM of its likeliest class, the first, is the image: red + 256 green + 65536 blue."""
    side = RESIZE.crop
    weights = np.zeros((3, len(LABELS)), np.float32)
    weights[:, 0] = SHIFTS

    def edit(model: onnx.ModelProto) -> None:
        for initializer in model.graph.initializer:
            if initializer.name == "scale":
                initializer.CopyFrom(numpy_helper.from_array(np.float32(1), "scale"))
        values = {value.name: value.type.tensor_type.shape.dim for value in [*model.graph.input, *model.graph.output]}
        for name, axes in (("image", (1, 2)), ("attention", (1, 2)), ("gradcam", (2, 3))):
            for axis in axes:
                values[name][axis].dim_value = side

    layer = Layer(name="pixels", channels=3, grid=(side, side))
    return tiny_model(tiny_manifest(resize=RESIZE, layers=(layer,)), weights=weights, edit=edit)


def unpacked(gradcam: npt.NDArray[np.float32]) -> Pixels:
    """Return the image (…, S, S, 3) of a map of the echoing model (…, S, S)."""
    packed = gradcam.astype(np.int64)
    assert np.array_equal(packed, gradcam)
    return np.stack([packed // shift % 256 for shift in SHIFTS], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the echoing model's file."""
    path = tmp_path_factory.mktemp("models") / "echo" / "1.onnx"
    path.parent.mkdir()
    path.write_bytes(echo_model())
    return path


@pytest.fixture(scope="module")
def photo(bird_photos: list[Path]) -> Image.Image:
    """Return a real photo of many colours."""
    with Image.open(next(path for path in bird_photos if "Painted_Bunting" in path.name)) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def files(
    data_dir: Path, bird_photos: list[Path], photo: Image.Image, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Return every odd image, real photos with and without a profile, and one photo in every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    large = photo.resize((4003, 3001))
    made = {
        **kinds(photo),
        "12 megapixels": encoded(large, "JPEG", quality=90),
        "12 megapixels, turned": encoded(large, "JPEG", quality=90, exif=oriented(7)),
        "webp turned by exif": encoded(photo, "WEBP", exif=oriented(6)),
        "avif": encoded(photo, "AVIF"),
        "nothing.png": b"",
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [*sorted((data_dir / "awkward").iterdir()), *bird_photos[::60], *sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def served(files: list[Path], model_file: Path) -> dict[Path, Served | FieldmarkError]:
    """Return what the service's predictor sees of each file, or why it refuses it."""

    async def run() -> dict[Path, Served | FieldmarkError]:
        runtime = Runtime(Settings(model=model_file, device="cpu"))
        await runtime.start()
        try:
            await runtime.models.wait_ready()
            return {path: await one(runtime, path) for path in files}
        finally:
            await runtime.stop()

    async def one(runtime: Runtime, path: Path) -> Served | FieldmarkError:
        model = runtime.models.get()
        try:
            prediction = await runtime.predictor.predict(model, path.read_bytes(), Question.about(model.manifest))
        except FieldmarkError as error:
            return error
        whole = prediction.image_of(max(prediction.width, prediction.height))
        return Served(unpacked(prediction.gradcam[0]), np.asarray(whole.image))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def shown(served: dict[Path, Served | FieldmarkError]) -> dict[Path, Served]:
    """Return what the service does not refuse."""
    return {path: seen for path, seen in served.items() if isinstance(seen, Served)}


def dataset_of(paths: list[Path]) -> Dataset:
    """Return a data set of these photos, test and training part alike."""
    samples = tuple(Sample(path, index % len(LABELS)) for index, path in enumerate(paths))
    return Dataset("odd photos", LABELS, samples, samples)


RECIPE = Recipe().with_values(
    {"network.backbone": "squeezenet1_1", "data.input_size": RESIZE.crop, "data.resize_size": RESIZE.size}
)


def test_the_service_refuses_what_it_refused(served: dict[Path, Served | FieldmarkError]) -> None:
    """Each with its code; all the others are shown. HEIC needs an extra."""
    refused = {path.name: seen.code for path, seen in served.items() if isinstance(seen, FieldmarkError)}
    heif = refused.pop("avif__hopper.heif", "unsupported_image_type")
    assert (REFUSED, "unsupported_image_type") == (refused, heif)
    assert len(served) > 100


def test_a_file_is_evaluated_on_what_the_service_sees(shown: dict[Path, Served], model_file: Path) -> None:
    """`evaluate FILE.onnx`: every byte of the network's input is the service's."""
    dataset = dataset_of(list(shown))
    evaluation = evaluate_file(model_file, dataset, dataset.test, 0, visible=False, threads=1)
    for path, pixels in zip(shown, unpacked(next(iter(evaluation.prediction.gradcam.values()))), strict=True):
        assert np.array_equal(shown[path].network_input, pixels), path.name


@pytest.mark.parametrize("kept", [False, True], ids=["decoded as needed", "from a store"])
def test_a_run_is_evaluated_on_what_the_service_sees(shown: dict[Path, Served], kept: bool, tmp_path: Path) -> None:
    """`evaluate RUN`, and the evaluation of many runs by one store: the logits are those of the service's pixels."""
    torch.manual_seed(0)
    network = build_network(network_config(RECIPE, len(LABELS))).eval()
    selected = Selected(RECIPE, LABELS, network.state_dict(), 1, 1.0, {}, {})
    dataset, cpu = dataset_of(list(shown)), torch.device("cpu")
    cache = tmp_path if kept else None
    evaluation = evaluate_run(selected, dataset, dataset.test, cpu, 0, visible=False, cache=cache)
    predict = torch_predictor(network, Normalise(RECIPE.data.mean, RECIPE.data.std, cpu))
    inputs = torch.from_numpy(np.stack([seen.network_input for seen in shown.values()])).permute(0, 3, 1, 2)
    expected = np.concatenate([predict(part).logits for part in torch.split(inputs, 32)])
    np.testing.assert_allclose(evaluation.prediction.logits, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4, "the network depends on its input"


def test_photos_are_held_out_as_the_service_sees_them(shown: dict[Path, Served], tmp_path: Path) -> None:
    """`fit` selects its weights and fits its temperature on these."""
    held = served_photos(dataset_of(list(shown)).train, RECIPE.data, 0, tmp_path, progress=False)
    for index, (path, seen) in enumerate(shown.items()):
        assert np.array_equal(seen.network_input, held[index][0]), path.name


def test_training_sees_what_the_service_decodes(shown: dict[Path, Served], tmp_path: Path) -> None:
    """`fit` reads every pixel of what the service draws on, or the same scaled down where the recipe keeps less."""
    samples = dataset_of(list(shown)).train
    full = training_photos(samples, RECIPE.with_values({"data.store_side": 20_000}), 0, tmp_path, progress=False)
    small = training_photos(samples, RECIPE, 0, tmp_path, progress=False)
    for index, (path, seen) in enumerate(shown.items()):
        pixels, size = full[index]
        assert np.array_equal(seen.whole, pixels), path.name
        assert seen.whole.shape[:2] == size[::-1]
        shorter = min(2 * RESIZE.size, *size)
        assert min(small[index][0].shape[:2]) == shorter, path.name
        assert np.abs(small[index][0].mean((0, 1)) - seen.whole.mean((0, 1))).max() < 8, path.name


def test_what_one_refuses_the_others_refuse(
    served: dict[Path, Served | FieldmarkError], model_file: Path, tmp_path: Path
) -> None:
    """Training and evaluation name the file, and say the service's reason."""
    for path, error in served.items():
        if not isinstance(error, FieldmarkError):
            continue
        dataset = dataset_of([path])
        ways: list[Callable[[], Any]] = [
            lambda dataset=dataset: evaluate_file(model_file, dataset, dataset.test, 0, visible=False, threads=1),
            lambda dataset=dataset: training_photos(dataset.train, RECIPE, 0, tmp_path, progress=False),
            lambda dataset=dataset: served_photos(dataset.train, RECIPE.data, 0, tmp_path, progress=False),
        ]
        for way in ways:
            with pytest.raises(DatasetError) as caught:
                way()
            assert str(path) in str(caught.value)
            if error.code == "empty_input":  # the service says so before decoding
                continue
            # How many pixels are allowed is the floor's own affair.
            assert error.detail.partition(";")[0] in str(caught.value)


def test_depth_and_profiles_change_pixels(shown: dict[Path, Served], photo: Image.Image) -> None:
    """The comparison can fail: what a plain `convert` makes of these files is far from what all of them see."""
    by_name = {path.name: seen for path, seen in shown.items()}
    for name in ("16-bit grey png", "p3 png", "cmyk jpeg with profile", "tiff of lab"):
        path = next(path for path in shown if path.name == name)
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            plain = np.asarray(opened.convert("RGB") if opened.mode != "LAB" else opened).astype(int)
        assert np.abs(plain - by_name[name].whole).max() > 10, name
    stored = (photo.height, photo.width, 3)
    assert by_name["jpeg turned by xmp alone"].whole.shape == stored
    assert by_name["jpeg turned by exif"].whole.shape == (photo.width, photo.height, 3)
