"""Where the cells of feature maps look: by arithmetic, against what the gradient of a cell says."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.explain.foreign import ExplainableModule
from model.network.backbone import STAGES, create_backbone
from model.network.centres import Centres, cell_centres
from tests.model.networks import make_small


def test_a_cell_of_mobilenet_looks_at_its_index_times_the_stride() -> None:
    """At stride 32 cell i looks at pixel 32·i, not at the middle of the i-th square of 32 pixels."""
    found = cell_centres(create_backbone("mobilenet_v2").eval().forward_stages, 288)
    assert Centres(0.0, 0.0, 32.0, 32.0) == found[-1]
    assert Centres(0.0, 0.0, 16.0, 16.0) == found[-2]


@pytest.mark.parametrize("name", STAGES)
def test_the_backbones_stages_are_where_their_table_says(name: str) -> None:
    """The constants that the mark head is built with are those of the operations, at sizes even and odd."""
    backbone = create_backbone(name).eval()
    for size in (96, 101):
        expected = [Centres(*(stage.centre,) * 2, *(float(stage.stride),) * 2) for stage in STAGES[name]]
        assert expected == list(cell_centres(backbone.forward_stages, size))


@pytest.mark.parametrize(
    ("name", "layer", "centre", "stride"),
    [
        ("resnet18", "layer4", 0.0, 32.0),
        ("efficientnet_b0", "bn2", 0.0, 32.0),
        ("tf_efficientnet_lite0", "bn2", 31.0, 32.0),
        ("tf_efficientnet_lite0", "blocks.4", 15.0, 16.0),
        ("convnext_atto", "stages.3", 15.5, 32.0),
        ("vit_tiny_patch16_224", "patch_embed.proj", 7.5, 16.0),
    ],
)
def test_networks_of_elsewhere_look_where_their_padding_says(
    name: str, layer: str, centre: float, stride: float
) -> None:
    """The first cell at pixel 0, at its square's last one where TensorFlow pads, or in the middle of a patch."""
    timm = pytest.importorskip("timm")
    classifier = ExplainableModule(timm.create_model(name).eval(), [layer])
    assert [Centres(centre, centre, stride, stride)] == [*cell_centres(lambda x: classifier(x).maps, 224)]


class _SamePadding(nn.Module):
    """A convolution padded as TensorFlow does: what is odd goes to the right and the bottom."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(channels, 4, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size in (x.shape[3], x.shape[2]):
            stride, kernel = self.convolve.stride[0], self.convolve.kernel_size[0]
            missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [missing // 2, missing - missing // 2]
        convolved: Tensor = self.convolve(functional.pad(x, pads))
        return convolved


class _ChannelsLast(nn.Module):
    """Normalises as ConvNeXt does, its channels moved to the end and back, and gates by what the whole map says."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return functional.silu(x) * torch.sigmoid(x.mean((2, 3), keepdim=True))


NETWORKS = {
    "strides": nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)),
    "no padding": nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2)),
    "patches": nn.Sequential(nn.Conv2d(3, 4, 4, 4), _ChannelsLast(), nn.Conv2d(4, 4, 2, 2)),
    "dilated": nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 0, dilation=3)),
    "TensorFlow's padding": nn.Sequential(_SamePadding(3, 3, 2), _SamePadding(4, 5, 2), _SamePadding(4, 3, 2)),
    "uneven": nn.Sequential(nn.Conv2d(3, 4, (3, 5), (1, 2), (1, 2)), nn.AvgPool2d((2, 3), (2, 1), (0, 1))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_a_cell_is_centred_there(name: str) -> None:
    """With positive weights every pixel that a cell sees counts, and their middle is the cell's centre."""
    network, size = NETWORKS[name].eval(), 64
    (centres,) = cell_centres(lambda x: [network(x)], size)
    assert centres is not None
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    image = torch.ones(1, 3, size, size, requires_grad=True)
    with torch.enable_grad():
        a = _linear(network, image)
    row, column = a.shape[2] // 2, a.shape[3] // 2
    (gradient,) = torch.autograd.grad(a[0, :, row, column].sum(), image)
    mass, pixels = gradient.abs().sum((0, 1)), torch.arange(float(size))
    assert (mass.sum(1) @ pixels / mass.sum()).item() == pytest.approx(centres.y + row * centres.step_y, abs=0.01)
    assert (mass.sum(0) @ pixels / mass.sum()).item() == pytest.approx(centres.x + column * centres.step_x, abs=0.01)


def _linear(network: nn.Module, x: Tensor) -> Tensor:
    """Apply a network with means for its maxima, and without what looks at the whole map."""
    for module in network if isinstance(network, nn.Sequential) else (network,):
        if isinstance(module, nn.MaxPool2d):
            module = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
        if not isinstance(module, _ChannelsLast):
            x = module(x)
    return x


def test_a_foreign_module_is_followed_through_its_branches() -> None:
    """Residuals and grouped convolutions keep the places that strides and pooling gave."""
    network = make_small()
    found = cell_centres(lambda x: [network.block(network.stem(x)), network.second(network.stem(x))], 40)
    assert [Centres(0.0, 0.0, 2.0, 2.0), Centres(0.0, 0.0, 4.0, 4.0)] == list(found)


def test_a_map_that_lost_its_places_has_no_centres() -> None:
    """Tokens, resized maps and constants are of no place that could be followed."""

    def maps(x: Tensor) -> list[Tensor]:
        tokens = functional.conv2d(x, torch.ones(4, 3, 8, 8), stride=8).flatten(2)
        resized = functional.interpolate(x, scale_factor=0.5)
        return [tokens.view(1, 4, 8, 8), resized, torch.ones(1, 4, 8, 8), tokens]

    assert [None] * 4 == list(cell_centres(maps, 64))
