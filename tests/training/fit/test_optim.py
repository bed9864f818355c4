"""The optimiser's parts that need no run: the learning rate and the averaged weights."""

import pytest
import torch

from model.network.network import NetworkConfig, build_network
from training.fit.optim import averaged_model, learning_rate_factor
from training.recipe import OptimRecipe


def test_the_average_follows_the_network() -> None:
    """After two steps it is the closed form with the growing decays 1/10 and 2/11; counters of batches are copied."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig("squeezenet1_1", "guided", num_classes=3, hidden=4)).train()
    average = averaged_model(network, decay=0.9)
    values = []
    name = "head.1.weight"
    for value in (0.0, 1.0, 2.0):
        with torch.no_grad():
            network.get_parameter(name).fill_(value)
        network.head(torch.randn(4, network.in_channels))
        if value:
            average.update_parameters(network)
        else:
            average.module.load_state_dict(network.state_dict())
        values.append(average.module.get_parameter(name).flatten()[0].item())
    first = 0.9
    assert values == pytest.approx([0.0, first, first * 2 / 11 + 2 * 9 / 11])
    assert average.module.get_buffer("head.0.num_batches_tracked").item() == 3
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert not average.module.training


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [0.001, 0.5005, 1.0, 0.5, 0.0]), ("constant", [0.001, 0.5005, 1.0, 1.0, 1.0])],
)
def test_the_learning_rate_rises_and_falls(schedule: str, expected: list[float]) -> None:
    """A linear rise over the first epoch, then half a cosine over the other four, or none."""
    recipe = OptimRecipe(epochs=5, warmup_epochs=1.0, schedule=schedule)  # type: ignore[arg-type]
    found = [learning_rate_factor(recipe, position) for position in (0, 0.5, 1, 3, 5)]
    assert found == pytest.approx(expected, abs=1e-3)
