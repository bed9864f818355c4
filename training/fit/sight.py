"""The last lesson of a network that reads marks: to see them at their parts, and not to guess them from around.

A table of classes says what a class looks like, not what this photo shows, so what reads a mark may as well name the
class by all that surrounds the part. Here discs of each photo are hidden, on parts where the network finds them. What
is hidden is not known: the targets of its marks are their means over the classes, by the share of the part's weights
that is covered. The readers alone learn, and the votes on what they read, from whole photos; places, features and the
class head stay. On out-of-fold photos of one fold (200) the marks of a blurred part fell more than others in 75%, in
71% without; hiding parts of what the whole network learns from did not do it, and cost 0.7 points of top-1.

Source: occlusion as augmentation: Zhong et al. 2017, "Random erasing", arXiv:1708.04896. Targets that follow what is
hidden are this project's own.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from model.network.marks import MarkHead, MarkReading
from model.network.network import Network
from training.data.marks import Marks
from training.data.transforms import Normalise
from training.recipe import Recipe

RATE = 1e-3
"""Peak learning rate; it rises over the first part of the lesson and falls to 0."""
DISCS = (1, 3)
"""Fewest and most discs of a photo."""
RADII = (0.05, 0.16)
"""Smallest and largest radius of a disc, as shares of the photo's side."""
COVERS = 1.5
"""A part counts as hidden by so many times the covered share of its weights, at most 1."""


def learn_to_see(
    network: Network,
    recipe: Recipe,
    marks: Marks,
    photos: Dataset[tuple[Tensor, int]],
    num_photos: int,
    device: torch.device,
    step: Callable[[int, int], object] = lambda done, steps: None,
) -> None:
    """Train what reads the marks, and the votes on it.

    Args:
        network: trained, on the device; changed in place and left in evaluation mode.
        recipe: `marks.sight` epochs; its seed.
        marks: the table that it learns from.
        photos: that were trained on, as the service prepares them, (3, S, S) uint8.
        num_photos: of them.
        device: to compute on.
        step: called after every step with the number of those done and of all.

    Raises:
        ValueError: the network has no marks.
    """
    head = network.mark_head
    if head is None:
        raise ValueError("the network has no marks")
    lesson = _Lesson(network.eval(), head, recipe, marks, device)
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = recipe.marks.sight * -(-num_photos // recipe.optim.batch_size)
    learnt = list(lesson.learnt())
    learning = [parameter.requires_grad for parameter in learnt]  # a mean of weights has none that learns
    for parameter in learnt:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(learnt, RATE, weight_decay=recipe.optim.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    done = 0
    for _ in range(recipe.marks.sight):
        order = torch.split(torch.randperm(num_photos, generator=generator), recipe.optim.batch_size)
        batches = [batch.tolist() for batch in order]
        for images, labels in DataLoader(photos, batch_sampler=batches):
            loss = lesson.loss(images, labels.to(device), generator)
            optimizer.zero_grad()
            loss.backward(inputs=learnt)  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            schedule.step()
            done += 1
            step(done, steps)
    for parameter, learns in zip(learnt, learning, strict=True):
        parameter.requires_grad_(learns)


class _Lesson:
    """The loss of a batch.

    Args:
        network: in evaluation mode.
        head: its mark head.
        recipe: for the weights of the losses.
        marks: the table.
        device: to compute on.
    """

    def __init__(self, network: Network, head: MarkHead, recipe: Recipe, marks: Marks, device: torch.device) -> None:
        self._network, self._head, self._recipe = network, head, recipe
        table = torch.from_numpy(marks.table).float().to(device)
        self._shares, self._known = table.nan_to_num(0), (~table.isnan()).float()
        self._frequent = table.nanmean(0).nan_to_num(0)
        data = recipe.data
        self._normalise = Normalise(data.mean, data.std, device, channels_last=True)
        self._fill = [round(255 * mean) for mean in data.mean]
        ends = [network.backbone.maps[index].name for index in sorted(head.stages_served)]
        parts = zip(ends, [None, *ends], strict=False)
        fused = [network.backbone.fused_until(end, after).to(device).eval() for end, after in parts]
        self._parts = [part.to(memory_format=torch.channels_last) for part in fused]

    def learnt(self) -> Iterator[nn.Parameter]:
        """Yield the weights that learn."""
        yield from (*self._head.what.parameters(), *self._head.reader.parameters(), self._head.own, self._head.bias)
        if self._network.part_votes is not None:
            yield from self._network.part_votes.layer.parameters()

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of whole photos, (N, 3, S, S) uint8, and of the same with hidden discs, scalar."""
        whole = self._read(images)
        weights = whole.weights.detach()
        hidden_images, hidden = hide(images, weights.sum(1).cpu(), self._fill, generator)
        partly = self._read(hidden_images)
        cells = functional.adaptive_avg_pool2d(hidden.to(weights), self._head.grid)
        covered = (COVERS * (weights * cells).sum((2, 3))).clamp_max(1)[:, self._head.part_of]
        shares, known = self._shares[labels], self._known[labels]
        pairs = ((whole, shares), (partly, shares.lerp(self._frequent.expand_as(shares), covered)))
        each = [_cross_entropy(reading.logits, targets) for reading, targets in pairs]
        loss = self._recipe.marks.seen * sum((one * known).sum() for one in each) / (2 * known.sum()).clamp_min(1)
        votes = self._network.part_votes
        if votes is not None:
            read = whole._replace(weights=weights, features=whole.features.detach())
            smoothing = self._recipe.optim.label_smoothing
            loss = loss + functional.cross_entropy(votes.own(votes(read)), labels, label_smoothing=smoothing)
        return loss

    def _read(self, images: Tensor) -> MarkReading:
        """Return the marks of uint8 images."""
        x, maps = self._normalise(images), [torch.zeros(0)] * len(self._network.backbone.maps)
        with torch.no_grad():
            for index, part in zip(sorted(self._head.stages_served), self._parts, strict=True):
                x = maps[index] = part(x)
        reading: MarkReading = self._head(maps)
        return reading


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def hide(images: Tensor, places: Tensor, fill: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images with discs hidden, and where: (N, 3, S, S) uint8 and (N, 1, S, S) bool.

    A photo's discs are blurred, filled, or show the photo before it in the batch, so that no such sign means a hidden
    part.

    Args:
        images: uint8, (N, 3, S, S).
        places: how likely a disc lies at each place, not negative, on a regular grid over the image, (N, h, w).
        fill: the colour of filled discs, RGB in [0, 255].
        generator: of everything that is random.
    """
    count, _, height, width = images.shape
    hidden = torch.zeros((count, 1, height, width), dtype=torch.bool)
    instead = images.roll(1, 0)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    for number in range(count):
        discs = int(torch.randint(DISCS[0], DISCS[1] + 1, (), generator=generator))
        cells = torch.multinomial(places[number].flatten(), discs, replacement=True, generator=generator)
        within, radii = torch.rand((2, discs), generator=generator), torch.rand(discs, generator=generator)
        radii = max(height, width) * (RADII[0] + (RADII[1] - RADII[0]) * radii)
        x = (cells % places.shape[2] + within[0]) * (width / places.shape[2])
        y = (cells // places.shape[2] + within[1]) * (height / places.shape[1])
        for left, top, radius in zip(x.tolist(), y.tolist(), radii.tolist(), strict=True):
            hidden[number] |= (columns - left) ** 2 + (rows - top) ** 2 <= radius**2
        kind = int(torch.randint(3, (), generator=generator))
        if kind == 0:
            instead[number] = _soft(images[number], float(radii.mean()))
        elif kind == 1:
            instead[number] = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    return torch.where(hidden, instead, images), hidden


def _soft(image: Tensor, radius: float) -> Tensor:
    """Return an image without detail of a disc's size.

    Through cells as wide as a disc: a Gaussian of that width would take longer than the network.
    """
    cells = [max(1, round(side / (2 * radius))) for side in image.shape[1:]]
    few = functional.interpolate(image[None].float(), cells, mode="area")
    soft = functional.interpolate(few, list(image.shape[1:]), mode="bicubic", align_corners=False)
    return soft[0].clamp(0, 255).to(torch.uint8)
