"""The mark head: a mark's logit is a sum over places, and the places are true."""

import json

import pytest
import torch
from torch import Tensor

from model.network.backbone import STAGES, create_backbone
from model.network.marks import cell_mass, grid_matrix, input_size
from model.network.network import Network, NetworkConfig, build_network

MARKS = ("crown: yellow", "crown: black", "wing: yellow", "wing: striped", "tail: forked")


def _network(**options: object) -> Network:
    torch.manual_seed(3)
    return build_network(NetworkConfig("mobilenet_v2", num_classes=4, marks=MARKS, **options)).eval()  # type: ignore[arg-type]


def test_logit_is_a_sum_over_places() -> None:
    """Weights, values and bias give the logit of every mark, and every part's weights are a distribution."""
    network = _network()
    head = network.mark_head
    assert head is not None
    with torch.no_grad():
        reading = head(network.backbone.forward_maps(torch.rand(2, 3, 96, 96)))
    weight, bias = head.readout
    values = torch.einsum("ad,ndhw->nahw", weight, reading.features)
    expected = bias + (reading.weights[:, head.part_of] * values).sum((2, 3))
    torch.testing.assert_close(reading.logits, expected)
    assert reading.weights.shape == (2, 3, 18, 18)
    assert reading.weights.min() >= 0
    torch.testing.assert_close(reading.weights.sum((2, 3)), torch.ones(2, 3))


def test_a_part_between_others_has_their_mean_scores() -> None:
    """Its weights are the geometric mean of theirs, a config survives JSON with it, and what is absent is left out."""
    between = {"tail": ("crown", "wing", "beak"), "eye": ("crown",)}
    head = _network(mark_between=between).mark_head
    assert head is not None
    assert head.between == {2: (0, 1)}
    maps = [torch.rand(2, stage.channels, 96 // stage.stride, 96 // stage.stride) for stage in head._stages]
    with torch.no_grad():
        weights = head.weights(maps)
    expected = (weights[:, 0] * weights[:, 1]).sqrt()
    torch.testing.assert_close(weights[:, 2], expected / expected.sum((1, 2), keepdim=True))
    config = NetworkConfig("mobilenet_v2", num_classes=4, marks=MARKS, mark_between=between)
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_part_cannot_lie_beside_one_that_lies_between_others() -> None:
    """Places that need each other are refused."""
    with pytest.raises(ValueError, match="wing cannot lie beside tail"):
        _network(mark_between={"wing": ("tail",), "tail": ("crown",)})


def test_cells_hold_what_lies_in_them() -> None:
    """All weight is kept, and its middle stays where it is."""
    stage = STAGES["mobilenet_v2"][-1]
    weights = torch.rand(2, 3, 18, 18)
    weights[:, :, :4] = weights[:, :, -4:] = weights[..., :4] = weights[..., -4:] = 0
    mass = cell_mass(weights, stage, 9)
    torch.testing.assert_close(mass.sum((2, 3)), weights.sum((2, 3)))
    pixels = (torch.arange(18) + 0.5) * 16 - 0.5
    centres = torch.arange(9) * stage.stride + stage.centre
    found, expected = (mass.sum(2) * centres).sum(2), (weights.sum(2) * pixels).sum(2)
    torch.testing.assert_close(found / mass.sum((2, 3)), expected / weights.sum((2, 3)), rtol=0, atol=1e-3)


def test_parts_share_the_reading_of_a_value() -> None:
    """Yellow is read alike on crown and wing; only the bias is a mark's own."""
    head = _network().mark_head
    assert head is not None
    assert head.parts == ("crown", "wing", "tail")
    assert head.values == ("yellow", "black", "striped", "forked")
    weight = head.readout.weight
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "squeezenet1_1"])
def test_cells_look_where_the_stages_say(name: str) -> None:
    """The input gradient of a cell is centred on the pixel that its stage's stride and centre give."""
    torch.manual_seed(0)
    backbone = create_backbone(name).eval()
    images = torch.rand(2, 3, 256, 256, requires_grad=True)
    for index, feature_map in enumerate(backbone.forward_stages(images)):
        stage, cell = STAGES[name][index], feature_map.shape[-1] // 2
        (gradient,) = torch.autograd.grad(feature_map[:, :, cell, cell].sum(), images, retain_graph=True)
        mass = gradient.abs().sum((0, 1))
        found = (mass.sum(0) * torch.arange(256)).sum() / mass.sum()
        assert abs(found.item() - (cell * stage.stride + stage.centre)) < stage.stride / 4 + 0.5


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_grid_is_regular_over_the_input(shift: float) -> None:
    """A map that holds the pixel each cell looks at reads, on the grid, the pixel in the middle of each grid cell."""
    stage = STAGES["mobilenet_v2"][2]
    cells, grid = 36, 18
    size = input_size(cells, stage)
    pixels: Tensor = stage.centre + shift + stage.stride * torch.arange(cells, dtype=torch.float32)
    found = grid_matrix(cells, stage, grid, size, shift) @ pixels
    torch.testing.assert_close(found[:-1], (torch.arange(grid - 1) + 0.5) * size / grid - 0.5)


def test_network_without_marks_has_no_head() -> None:
    """A config of before there were marks builds the network it always built."""
    network = build_network(NetworkConfig.from_dict({"backbone": "squeezenet1_1", "num_classes": 4}))
    assert network.mark_head is None
    with pytest.raises(ValueError, match="no marks"):
        network.read_marks([])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("marks", ("yellow",), "part: value"),
        ("mark_places", (6,), "mobilenet_v2 has 6"),
        ("mark_grid", 1, "mark_grid"),
    ],
)
def test_config_refuses_what_cannot_be_built(field: str, value: object, message: str) -> None:
    """A wrong mark or stage is an error when the config is made."""
    good = NetworkConfig("mobilenet_v2", num_classes=4, marks=MARKS).to_dict()
    with pytest.raises(ValueError, match=message):
        NetworkConfig.from_dict(good | {field: value})


def test_config_with_marks_survives_json() -> None:
    """A manifest holds lists where the config has tuples."""
    config = NetworkConfig("mobilenet_v2", num_classes=4, marks=MARKS, mark_values=(0, 1))
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in config.to_dict().items()}
    assert NetworkConfig.from_dict(values) == config


@pytest.mark.parametrize("grid", [4, 12])
def test_evaluation_folds_the_norms_away(grid: int) -> None:
    """With one product for norm and layer, coarser and finer than the maps, the reading is that of the two in turn."""
    network = _network(mark_grid=grid)
    head, maps = network.mark_head, [torch.randn(3, *shape) for shape in ((16, 48, 48), (24, 24, 24), (32, 12, 12))]
    maps += [torch.randn(3, *shape) for shape in ((96, 6, 6), (320, 3, 3), (1280, 3, 3))]
    assert head is not None
    head.train()
    with torch.no_grad():
        head(maps)
        head.eval()
        folded = head(maps)
        for part in (head.where, head.what):
            part.training = True  # takes the way of training, with norms that still evaluate
        torch.testing.assert_close(folded, head(maps), rtol=1e-4, atol=1e-4)


def test_copies_are_averaged_as_one_layer() -> None:
    """The served scores are the mean of the copies', in training and after it; each copy has places of its own."""
    head = _network(mark_copies=3, mark_between={"tail": ("crown", "wing")}).mark_head
    assert head is not None
    maps = [torch.rand(2, stage.channels, 96 // stage.stride, 96 // stage.stride) for stage in head._stages]
    for training in (False, True):
        head.train(training)
        with torch.no_grad():
            copies = torch.stack(head.copies_of_weights(maps))
            weights = head.weights(maps)
        expected = copies.log().mean(0).exp()
        torch.testing.assert_close(weights, expected / expected.sum((2, 3), keepdim=True), rtol=1e-4, atol=1e-6)
        assert (copies[0] - copies[1]).abs().max() > 1e-4
