"""What the guidance adds to the time of a training step, and the peak memory of training.

Steps with and without guidance are interleaved, so that drift affects both equally:

    python benchmarks/guidance_cost.py [--backbone mobilenet_v2] [--size 224] [--batch 32] [--steps 20]
"""

import argparse
import json
import resource
import statistics
import time

import torch

from model.network.network import build_network
from training.checkpoint import network_config
from training.fit.losses.objective import Objective
from training.fit.optim import create_optimizer, set_learning_rate
from training.recipe import Recipe


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    recipe = Recipe(name="benchmark").with_values({"network.backbone": options.backbone})
    network = build_network(network_config(recipe, 50)).to(device, memory_format=torch.channels_last).train()
    objectives = {
        name: Objective(network, recipe.with_values({"guidance.weight": weight}))
        for name, weight in (("plain", 0.0), ("guided", 1.0))
    }
    optimizer = create_optimizer(network, recipe.optim)
    set_learning_rate(optimizer, 0.0)
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(50, (options.batch,), device=device)

    def step(objective: Objective) -> float:
        started = time.perf_counter()
        objective(images, targets).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for objective in objectives.values():
        step(objective)
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(options.steps):
        for name, objective in objectives.items():
            seconds[name].append(step(objective))
    # The fastest steps are the least disturbed ones.
    best = {name: min(times) for name, times in seconds.items()}
    ratios = [guided / plain for guided, plain in zip(seconds["guided"], seconds["plain"], strict=True)]
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "step_ms": {name: round(1000 * value, 1) for name, value in best.items()},
        "guidance_adds": round(best["guided"] / best["plain"] - 1, 4),
        "guidance_adds_median_of_pairs": round(statistics.median(ratios) - 1, 4),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
