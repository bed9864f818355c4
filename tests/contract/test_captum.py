"""The served Grad-CAM is captum's, torchcam's and pytorch-grad-cam's, on real photos, through the real service.

Each peer differentiates the same network, rebuilt from the served file, at an `Identity` behind the attention and what
is read at the parts.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model.contract.manifest import Manifest
from model.photo.decode import decode_image, prepare
from service.drawing.maps import scale_map
from service.settings import BUNDLED_MODEL, Settings
from tests.service.running import running

torch = pytest.importorskip("torch")
Floats = npt.NDArray[np.float32]
NUM_PHOTOS = 24
TOLERANCE = 1e-4
"""Of maps scaled to [0, 1]."""


@dataclass(frozen=True)
class Case:
    """One photo through the service.

    Attributes:
        name: of the file.
        pixels: what the network saw, normalised, (1, 3, S, S).
        index: of the explained class.
        gradcam: served map, (h, w).
        versus: the class it is set against in `contrast`.
        contrast: served map of index − versus, (h, w).
    """

    name: str
    pixels: Any
    index: int
    gradcam: Floats
    versus: int
    contrast: Floats


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch from taking the cores of its neighbours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_file() -> Path:
    """Return the bundled model's file."""
    return max(BUNDLED_MODEL.glob("*/?.onnx"))


@pytest.fixture(scope="module")
def tapped(model_file: Path) -> tuple[Any, Any, Manifest]:
    """Return the served network rebuilt in torch, its `Identity` behind the attention, and the manifest."""
    from model.export.export import load_network
    from model.export.peers import tapped_logits

    network, manifest = load_network(model_file)

    class Tapped(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is imported at run time
        """The network with a place to hook."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.tap = torch.nn.Identity()

        def forward(self, images: Any) -> Any:
            """Return the logits, (N, K)."""
            return tapped_logits(self.network, self.tap, images)

    module = Tapped().eval()
    return module, module.tap, manifest


@pytest.fixture(scope="module")
def cases(bird_photos: list[Path], tapped: tuple[Any, Any, Manifest], model_file: Path) -> list[Case]:
    """Return photos with the raw maps that a running server returned for them."""
    manifest = tapped[2]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (manifest.mean, manifest.std))
    found = []
    with running(Settings(model=model_file, device="cpu")) as server, server.client() as client:
        for path in bird_photos[:: len(bird_photos) // NUM_PHOTOS][:NUM_PHOTOS]:
            data = path.read_bytes()
            headers = {"Accept": "application/json", "Content-Type": "image/jpeg"}
            address = "/explain?values=true&size=16"
            answer = client.post(address, content=data, headers=headers).raise_for_status().json()
            other = client.post(f"{address}&versus=rank:2", content=data, headers=headers).raise_for_status().json()
            square = prepare(decode_image(data, min_side=manifest.resize.size), manifest.resize)
            pixels = (torch.from_numpy(square.copy()).permute(2, 0, 1)[None] / 255 - mean) / std
            gradcam, contrast = (np.array(one["gradcam"]["values"], np.float32) for one in (answer, other))
            found.append(
                Case(path.name, pixels, answer["target"]["index"], gradcam, other["versus"]["index"], contrast)
            )
    return found


def unit(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Scale a map to [0, 1]; an all-zero map stays."""
    grid = np.asarray(values, np.float64)
    span = grid.max() - grid.min()
    return (grid - grid.min()) / span if span > 0 else grid * 0


def assert_same(expected: npt.ArrayLike, found: npt.ArrayLike, name: str) -> None:
    """Compare two maps of one shape."""
    assert np.shape(expected) == np.shape(found)
    assert np.abs(unit(expected) - unit(found)).max() <= TOLERANCE, name


def test_photos_are_many_and_few_maps_are_empty(cases: list[Case]) -> None:
    """The comparison is over at least 20 photos, and hardly any map is empty."""
    assert len(cases) >= 20
    assert sum(case.gradcam.max() > 0 for case in cases) >= 20


def test_captum(cases: list[Case], tapped: tuple[Any, Any, Manifest]) -> None:
    """LayerGradCam with `relu_attributions=True`."""
    captum = pytest.importorskip("captum.attr")
    network, tap, _ = tapped
    peer = captum.LayerGradCam(network, tap)
    for case in cases:
        theirs = peer.attribute(case.pixels, target=case.index, relu_attributions=True)
        assert_same(theirs[0, 0].detach().numpy(), case.gradcam, case.name)


def test_captum_of_a_contrast(cases: list[Case], tapped: tuple[Any, Any, Manifest]) -> None:
    """`versus` is captum's map of the difference of two logits."""
    captum = pytest.importorskip("captum.attr")
    network, tap, _ = tapped
    for case in cases:

        def difference(images: Any, one: int = case.index, other: int = case.versus) -> Any:
            logits = network(images)
            return logits[:, one] - logits[:, other]

        theirs = captum.LayerGradCam(difference, tap).attribute(case.pixels, relu_attributions=True)
        assert_same(theirs[0, 0].detach().numpy(), case.contrast, case.name)


def test_torchcam(cases: list[Case], tapped: tuple[Any, Any, Manifest]) -> None:
    """GradCAM of torchcam."""
    methods = pytest.importorskip("torchcam.methods")
    network, tap, _ = tapped
    with methods.GradCAM(network, tap) as peer:
        for case in cases:
            scores = network(case.pixels.clone().requires_grad_())
            theirs = peer(case.index, scores)[0][0].detach().numpy()
            assert_same(theirs, case.gradcam, case.name)


def test_pytorch_grad_cam(cases: list[Case], tapped: tuple[Any, Any, Manifest]) -> None:
    """GradCAM of pytorch-grad-cam, enlarged and scaled for display by each library."""
    peers = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    network, tap, manifest = tapped
    with peers.GradCAM(model=network, target_layers=[tap]) as peer:
        for case in cases:
            theirs = peer(input_tensor=case.pixels, targets=[targets.ClassifierOutputTarget(case.index)])[0]
            grid, side = scale_map(case.gradcam, manifest.input_size).grid, manifest.input_size
            ours = np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BILINEAR))
            assert np.abs(theirs - ours).max() <= TOLERANCE, case.name


def test_picture_shows_the_map(cases: list[Case], bird_photos: list[Path], model_file: Path) -> None:
    """The heatmap that is served as a picture has its hottest place where the raw map has it."""
    paths = {path.name: path for path in bird_photos}
    with running(Settings(model=model_file, device="cpu")) as server, server.client() as client:
        manifest = server.runtime.models.get().manifest
        for case in cases[:4]:
            data = paths[case.name].read_bytes()
            answer = client.post("/explain?view=gradcam", content=data, headers={"Content-Type": "image/jpeg"})
            picture = Image.open(io.BytesIO(answer.raise_for_status().content))
            left, top, right, bottom = manifest.resize.source_box(*picture.size)
            indices = np.asarray(picture).astype(int)
            indices[indices == 255] = -1  # not seen by the network
            row, column = np.unravel_index(int(indices.argmax()), indices.shape)
            size, cells = manifest.input_size, case.gradcam.shape
            place = (row + 0.5 - top) / (bottom - top) * size, (column + 0.5 - left) / (right - left) * size
            x, y, step_x, step_y = 0.0, 0.0, size / cells[1], size / cells[0]
            if manifest.placed_by_centres and manifest.layers[0].centres is not None:
                x, y, step_x, step_y = manifest.layers[0].centres
                x, y = x - (step_x - 1) / 2, y - (step_y - 1) / 2  # where the cell begins, not its middle
            row, column = np.clip([(place[0] - y) // step_y, (place[1] - x) // step_x], 0, np.array(cells) - 1)
            assert case.gradcam[int(row), int(column)] >= 0.9 * case.gradcam.max()
