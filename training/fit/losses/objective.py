"""The loss: cross-entropy + weight · KL(attention, Grad-CAM) + weight · marks, and every setting of the guidance.

Source: Xu et al. 2021, arXiv:2101.09666; departures from the released scripts are settings of `GuidanceRecipe`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.explain.gradcam import activation_map, channel_gradients
from model.network.attention import Attended
from model.network.network import Network
from training.data.features import StageMaps
from training.data.marks import Marks
from training.fit.losses.evidence import EvidenceLoss
from training.fit.losses.marks import MarkLoss, ramp
from training.recipe import GuidanceRecipe, Recipe

SMALLEST = 1e-12
"""Lower bound of probabilities before the logarithm."""


class Losses(NamedTuple):
    """The result of one forward pass of training.

    Attributes:
        total: to be minimised, scalar.
        cross_entropy: its first part, scalar, detached.
        guidance: the divergence before its weight, scalar, detached; 0 without guidance.
        marks: the loss of the mark head before its weight, scalar, detached; 0 without marks.
        logits: (N, K), detached.
    """

    total: Tensor
    cross_entropy: Tensor
    guidance: Tensor
    marks: Tensor
    logits: Tensor


class Objective(nn.Module):
    """Network and loss as one module, so that `DistributedDataParallel` sees one forward pass.

    Args:
        network: to train.
        recipe: its guidance, marks and label smoothing.
        processes: number of them; gradients are averaged over them, so a guidance summed over the batch is scaled up.
        inputs: how the inputs become the maps of the backbone's stages.
        marks: the table that the mark head learns from; None where there is no mark head.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        processes: int = 1,
        inputs: StageMaps | None = None,
        marks: Marks | None = None,
    ) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs or StageMaps(network)
        self.guidance = recipe.guidance
        self.weight = recipe.guidance.weight * (processes if recipe.guidance.reduction == "sum" else 1)
        self.mark_weight = recipe.marks.weight
        self.evidence_weight = recipe.marks.evidence
        self.marks = self.evidence = None
        if marks is not None and network.mark_head is not None:
            self.marks = MarkLoss(network.mark_head, marks, recipe.marks)
            if self.evidence_weight:
                self.evidence = EvidenceLoss(network.mark_head, marks)
        self.cross_entropy = nn.CrossEntropyLoss(label_smoothing=recipe.optim.label_smoothing)

    def forward(self, inputs: Tensor, targets: Tensor, progress: float = 1.0) -> Losses:
        """Return the losses of a batch.

        Args:
            inputs: normalised images, (N, 3, S, S), or cached features.
            targets: classes, (N,), or their shares, (N, K).
            progress: share of the training that is done.
        """
        maps = self.inputs(self.network, inputs)
        answer = self.network.answer(maps)
        attended, logits = answer.attended, answer.logits.float()
        # Head and votes learn to name the class each by itself: of their sum the faster would leave the other nothing.
        total = cross_entropy = self.cross_entropy(answer.of_head.float(), targets)
        guidance = marks = torch.zeros_like(cross_entropy)
        if self.guidance.weight:
            guided = guided_class(logits, targets, self.guidance)
            guidance = guidance_loss(self.network, attended, guided, self.guidance)
            total = total + self.weight * guidance
        if self.marks is not None and self.network.mark_head is not None:
            shares = targets if targets.ndim == 2 else functional.one_hot(targets, logits.shape[1]).float()
            marks = self.marks(self.network.mark_head, maps, shares, progress)
            if self.evidence is not None:
                evidence = self.evidence(self.network, answer, maps, shares)
                marks = marks + self.evidence_weight * ramp(progress) * evidence
            if answer.votes is not None and self.network.part_votes is not None:
                marks = marks + self.cross_entropy(self.network.part_votes.own(answer.votes).float(), targets)
            total = total + self.mark_weight * marks
        return Losses(total, cross_entropy.detach(), guidance.detach(), marks.detach(), logits.detach())


def guided_class(logits: Tensor, targets: Tensor, settings: GuidanceRecipe) -> Tensor:
    """Return the class whose logit is differentiated, (N,): the predicted one, or the (larger) true one."""
    if settings.target_class == "predicted":
        return logits.detach().argmax(1)
    return targets if targets.ndim == 1 else targets.argmax(1)


def guidance_loss(network: Network, attended: Attended, target: Tensor, settings: GuidanceRecipe) -> Tensor:
    """Return the divergence between the weights of the attention and those of Grad-CAM.

    Channel weights are compared with Grad-CAM's channel weights; the spatial arm, which has none, compares its map
    with the Grad-CAM map; arms with neither are guided through the softmax of their channel means.

    Args:
        network: whose head is differentiated.
        attended: of `network.forward_features`, with its graph.
        target: class explained of each image, (N,).
        settings: of the guidance.

    Returns:
        Scalar; only the attention's side carries a gradient.
    """
    gradients = channel_gradients(network, attended, target, coupled=settings.coupled).float()
    if network.config.attention == "spatial" and attended.attention is not None:
        attention = attended.attention.float().flatten(1)
        weights = attention / attention.sum(1, keepdim=True)
        evidence = activation_map(gradients, attended.feature_map.detach().float()).flatten(1)
    else:
        given = attended.channel_weights
        weights = attended.feature_map.float().mean((2, 3)).softmax(1) if given is None else given
        # The mixed arm's head has 2C channels; the attention weighs the first C.
        evidence = gradients[:, : weights.shape[1]]
    log_target = guidance_target(evidence, settings)
    return divergence(weights.float(), log_target, settings)


def guidance_target(evidence: Tensor, settings: GuidanceRecipe) -> Tensor:
    """Return log beta, the target distribution of the attention, (N, M).

    As released, beta = softmax(evidence), and the evidence is so small that beta is uniform to 1e-6. Standardised,
    the evidence gets zero mean and unit deviation per image first.

    Args:
        evidence: Grad-CAM's weight of each channel, or its map over positions, (N, M).
        settings: scale, temperature and control.
    """
    evidence = evidence.detach()
    if settings.control == "uniform":
        evidence = torch.zeros_like(evidence)
    elif settings.control == "shuffled":
        order = torch.rand_like(evidence).argsort(1)
        evidence = evidence.gather(1, order)
    if settings.scale == "standardised":
        deviation = evidence.std(1, keepdim=True, correction=0)
        # A map of zeros stays zero, which makes beta uniform.
        evidence = (evidence - evidence.mean(1, keepdim=True)) / deviation.clamp_min(torch.finfo(evidence.dtype).tiny)
    return (evidence / settings.temperature).log_softmax(1)


def divergence(weights: Tensor, log_target: Tensor, settings: GuidanceRecipe) -> Tensor:
    """Return the Kullback-Leibler divergence of the settings' direction and reduction.

    Args:
        weights: distribution w, (N, M).
        log_target: log of the distribution beta, (N, M).
        settings: `w_beta` is KL(w‖beta), `beta_w` KL(beta‖w), `symmetric` their mean.
    """
    difference = weights.clamp_min(SMALLEST).log() - log_target
    forward, backward = (weights * difference).sum(1), -(log_target.exp() * difference).sum(1)
    each = {"w_beta": forward, "beta_w": backward, "symmetric": (forward + backward) / 2}[settings.direction]
    return each.sum() if settings.reduction == "sum" else each.mean()
