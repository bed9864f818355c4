"""The guidance loss: every setting, its controls, and the faults of the released scripts that it must avoid."""

from dataclasses import replace

import pytest
import torch

from model.network.network import Network, NetworkConfig, build_network
from training.arms import ARMS, apply_arm
from training.fit.losses.objective import Objective, divergence, guidance_target
from training.recipe import GuidanceRecipe, Recipe

EVIDENCE = torch.tensor([[0.0, 1e-4, 3e-4, -2e-4]])


def small_network(attention: str = "guided", pooling: str = "avg") -> Network:
    """Return a network on a small backbone."""
    torch.manual_seed(0)
    return build_network(NetworkConfig("squeezenet1_1", attention, num_classes=3, pooling=pooling, hidden=8))  # type: ignore[arg-type]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and classes."""
    torch.manual_seed(1)
    return torch.randn(4, 3, 48, 48), torch.tensor([0, 1, 2, 0])


def test_the_released_target_is_nearly_uniform_and_the_standardised_one_is_not() -> None:
    """A softmax of tiny numbers is uniform; of standardised ones it keeps their order."""
    released = guidance_target(EVIDENCE, GuidanceRecipe(scale="released")).exp()
    standardised = guidance_target(EVIDENCE, GuidanceRecipe()).exp()
    assert torch.allclose(released, torch.full_like(released, 0.25), atol=1e-3)
    assert standardised.max() > 0.5
    assert standardised.argmax() == EVIDENCE.argmax()


def test_a_temperature_flattens_the_target() -> None:
    """A higher temperature is nearer to uniform."""
    cold = guidance_target(EVIDENCE, GuidanceRecipe(temperature=0.5)).exp().max()
    hot = guidance_target(EVIDENCE, GuidanceRecipe(temperature=5.0)).exp().max()
    assert cold > hot > 0.25


def test_the_controls_keep_the_form_and_drop_the_content() -> None:
    """Uniform is uniform; shuffled has the same values at other channels; no evidence gives a uniform target."""
    torch.manual_seed(0)
    uniform = guidance_target(EVIDENCE, GuidanceRecipe(control="uniform")).exp()
    shuffled = guidance_target(torch.arange(64.0)[None], GuidanceRecipe(control="shuffled"))
    plain = guidance_target(torch.arange(64.0)[None], GuidanceRecipe())
    assert uniform.tolist() == [[0.25] * 4]
    assert torch.allclose(shuffled.sort().values, plain.sort().values)
    assert not torch.allclose(shuffled, plain)
    assert guidance_target(torch.zeros(1, 4), GuidanceRecipe()).exp().tolist() == [[0.25] * 4]


def test_directions_and_reductions() -> None:
    """The divergences equal torch's; symmetric is their mean; sum is the mean times the batch."""
    torch.manual_seed(0)
    weights, target = torch.rand(5, 7).softmax(1), torch.rand(5, 7).log_softmax(1)
    forward = torch.nn.functional.kl_div(target, weights.log(), reduction="batchmean", log_target=True)
    backward = torch.nn.functional.kl_div(weights.log(), target, reduction="batchmean", log_target=True)
    found = {d: divergence(weights, target, GuidanceRecipe(direction=d)) for d in ("w_beta", "beta_w", "symmetric")}  # type: ignore[arg-type]
    assert torch.allclose(found["w_beta"], forward)
    assert torch.allclose(found["beta_w"], backward)
    assert torch.allclose(found["symmetric"], (forward + backward) / 2)
    summed = divergence(weights, target, GuidanceRecipe(direction="w_beta", reduction="sum"))
    assert torch.allclose(summed, 5 * forward)


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.guided])
def test_every_guided_arm_gets_a_gradient(name: str) -> None:
    """The guidance is positive, and all gradients are finite."""
    recipe = apply_arm(Recipe().with_values({"guidance.weight": 1.0}), name)
    network = small_network(recipe.network.attention)
    losses = Objective(network, recipe)(*batch())
    assert losses.guidance > 0
    losses.total.backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def test_the_grad_cam_pass_leaks_nothing() -> None:
    """Without weight the gradients are those of cross-entropy alone; with it, the head's are still the same.

    The head's parameters enter the guidance through Grad-CAM only, which is detached: any difference is a leak.
    """
    recipe, (images, targets) = Recipe(), batch()
    gradients = {}
    for weight in (0.0, 5.0):
        network = small_network().eval()
        objective = Objective(network, recipe.with_values({"guidance.weight": weight}))
        objective(images, targets).total.backward()
        gradients[weight] = {name: p.grad for name, p in network.named_parameters()}
    for name, gradient in gradients[0.0].items():
        if name.startswith("head."):
            assert torch.equal(gradient, gradients[5.0][name])
    moved = [name for name, gradient in gradients[0.0].items() if not torch.equal(gradient, gradients[5.0][name])]
    assert any(name.startswith("attention.") for name in moved)


def test_the_guidance_of_an_image_does_not_depend_on_its_neighbours() -> None:
    """In evaluation mode of the head, alone or in a batch; the released coupling makes it depend."""
    images, targets = batch()
    recipe = Recipe().with_values({"guidance.weight": 1.0})
    network = small_network()
    network.backbone.eval()
    for module in network.head.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = 0.0

    def each(settings: Recipe) -> list[float]:
        whole = Objective(network, settings)(images, targets).guidance
        parts = [Objective(network, settings)(images[at : at + 2], targets[at : at + 2]).guidance for at in (0, 2)]
        return [float(whole), float(sum(parts) / 2)]

    apart, together = (each(recipe.with_values({"guidance.target_class": "ground_truth", **more})) for more in
                       ({}, {"guidance.coupled": True}))  # fmt: skip
    assert apart[0] == pytest.approx(apart[1], abs=1e-5)
    assert abs(together[0] - together[1]) > 1e-3


def test_mixed_labels_are_guided_by_the_larger_share() -> None:
    """Shares of classes are accepted in place of classes."""
    images, targets = batch()
    recipe = Recipe().with_values({"guidance.target_class": "ground_truth", "optim.label_smoothing": 0.1})
    objective = Objective(small_network().eval(), recipe)
    shares = torch.nn.functional.one_hot(targets, 3).float()
    assert torch.allclose(objective(images, targets).total, objective(images, shares).total, atol=1e-6)


def test_a_sum_is_scaled_back_up_over_processes() -> None:
    """Gradients are averaged over processes; a guidance summed over the batch must not shrink by that."""
    recipe = Recipe(guidance=replace(GuidanceRecipe(), reduction="sum"))
    assert Objective(small_network(), recipe, processes=4).weight == 4 * recipe.guidance.weight
