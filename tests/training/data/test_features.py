"""Cached features equal those that the frozen part computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from model.network.network import Network, NetworkConfig, build_network
from training.data.batches import served_photos
from training.data.features import FeatureCache, StageMaps, cached_step, frozen_step
from training.data.samples import Dataset
from training.data.transforms import Normalise
from training.errors import RecipeError
from training.fit.job import Job
from training.recipe import OptimRecipe, Recipe

CPU = torch.device("cpu")


def lively_network() -> Network:
    """Return a MobileNetV2 whose running statistics are not those of a fresh network."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig("mobilenet_v2", "guided", num_classes=3, pooling="avg"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.05, 0.5)  # type: ignore[arg-type]
    return network.eval()


def test_cached_features_equal_the_networks(birds: Dataset, tiny: Recipe, cache: Path) -> None:
    """Batch norms folded, the features agree to 1e-5 of the largest; kept as halves, to 1e-3."""
    network, step = lively_network(), "features.13"
    recipe = tiny.with_values({"optim.freeze_until": step, "data.cached_views": 1})
    kept = FeatureCache(network, step, recipe, cache, CPU, progress=False)
    photos = served_photos(birds.test, recipe.data, 0, cache, progress=False)
    images = torch.stack([torch.from_numpy(photos[i][0].copy()).permute(2, 0, 1) for i in range(len(photos))])
    x = Normalise(recipe.data.mean, recipe.data.std, CPU)(images)
    with torch.no_grad():
        expected = nn.Sequential(*network.backbone.modules_until(step))(x)
        scale = expected.abs().max()
        assert (kept.answer(images) - expected).abs().max() <= 1e-5 * scale
        features = kept.prepared(photos, birds.test)
        stored = torch.stack([features[i][0] for i in range(len(photos))]).float()
        assert (stored - expected).abs().max() <= 1e-3 * scale
        whole = network(x)
        assert torch.allclose(
            network.forward_head(network.forward_features(expected, after=step).feature_map), whole, atol=1e-5
        )


def test_cached_features_keep_the_maps_that_marks_are_read_from(birds: Dataset, tiny: Recipe, cache: Path) -> None:
    """Marks read from cached features are those read from the images, and their local reading, too."""
    torch.manual_seed(0)
    marks = ("crown: red", "crown: blue", "wing: red")
    network = build_network(NetworkConfig("mobilenet_v2", num_classes=3, marks=marks)).eval()
    step = "features.10"
    recipe = tiny.with_values({"optim.freeze_until": step, "data.cached_views": 1})
    photos = served_photos(birds.test, recipe.data, 0, cache, progress=False)
    items = FeatureCache(network, step, recipe, cache, CPU, progress=False).prepared(photos, birds.test)
    stored = torch.stack([items[i][0] for i in range(len(photos))]).float()
    images = torch.stack([torch.from_numpy(photos[i][0].copy()).permute(2, 0, 1) for i in range(len(photos))])
    head = network.mark_head
    assert head is not None
    with torch.no_grad():
        expected = network.backbone.forward_maps(Normalise(recipe.data.mean, recipe.data.std, CPU)(images))
        maps = StageMaps(network, step, [recipe.data.input_size])(network, stored)
        assert len(maps) == len(expected)
        for index in head.stages_read:
            torch.testing.assert_close(maps[index], expected[index], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(head(maps).logits, head(expected).logits, atol=2e-3, rtol=2e-3)


def test_the_frozen_part_is_named_by_stage_or_step() -> None:
    """A number of stages and a step's name are equivalent; the message for an unknown name lists the known ones."""
    network = lively_network()
    assert frozen_step(network, OptimRecipe(freeze_stages=4)) == "features.13"
    assert frozen_step(network, OptimRecipe(freeze_until="features.16")) == "features.16"
    assert frozen_step(network, OptimRecipe()) is None
    with pytest.raises(RecipeError, match=r"features\.18"):
        frozen_step(network, OptimRecipe(freeze_until="layer3"))


def test_features_replace_images_if_the_recipe_caches_them(tiny: Recipe) -> None:
    """A frozen part alone does not cache them."""
    network, frozen = lively_network(), tiny.with_values({"optim.freeze_stages": 4})
    assert cached_step(network, frozen) is None
    assert cached_step(network, frozen.with_values({"data.cached_views": 2})) == "features.13"


def test_cached_views_need_a_frozen_part(make_job: Callable[..., Job]) -> None:
    """Features of layers that learn would be stale after one step."""
    with pytest.raises(RecipeError, match="needs a frozen part"):
        make_job(data__cached_views=4)
