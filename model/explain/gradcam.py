"""Grad-CAM of the last feature map, at the cost of the head alone: the guidance of the training loss.

Source: Selvaraju et al. 2017, arXiv:1610.02391, eq. 1-2.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.network.attention import Attended
from model.network.network import Answer, Network


def activation_map(channel_gradient: Tensor, feature_map: Tensor) -> Tensor:
    """Return relu(sum_k alpha_k A_k): alpha (N, C) and A (N, C, h, w) → (N, h, w)."""
    return torch.relu((channel_gradient[:, :, None, None] * feature_map).sum(1))


def class_map(network: Network, answer: Answer, target: Tensor, versus: Tensor | None = None) -> Tensor:
    """Return the class's map as the graph serves it: Grad-CAM of the last feature map, and the votes of the parts.

    Args:
        network: whose head is differentiated.
        answer: of the network; its feature map and votes may carry a graph, the head's gradient does not.
        target: class whose logit is y, (N,), int64.
        versus: class whose logit is taken from it; None for none.

    Returns:
        (N, h, w) ≥ 0; where parts vote, on the marks' grid.
    """
    return torch.relu(signed_map(network, answer, target, versus))


def signed_map(network: Network, answer: Answer, target: Tensor, versus: Tensor | None = None) -> Tensor:
    """Return `class_map` before its ReLU; the arguments are the same."""
    classes = torch.arange(network.config.num_classes, device=target.device)
    cotangent = (target[:, None] == classes).float()
    gradients = channel_gradients(network, answer.attended, target)
    if versus is not None:
        cotangent = cotangent - (versus[:, None] == classes).float()
        gradients = gradients - channel_gradients(network, answer.attended, versus)
    found = torch.einsum("nc,nchw->nhw", gradients, answer.attended.feature_map)[:, None]
    return network.class_maps(found, answer.votes, cotangent[:, None])[:, 0]


def channel_gradients(network: Network, attended: Attended, target: Tensor, *, coupled: bool = False) -> Tensor:
    """Return Grad-CAM's channel weights `mean_hw(dy/dX')`, at the cost of the head alone.

    The head pools globally, so the mean over positions of dy/dX' is dy/dpooled / (h·w), whether it pools by
    mean or by maximum. No `.grad` is touched, no running statistic is changed, and the result is detached.

    Args:
        network: whose head is differentiated.
        attended: of `network.forward_features`.
        target: class whose logit is y, (N,), int64.
        coupled: normalise with the statistics of the batch, as the method's scripts do in training: the
            images' gradients then depend on each other. By default the running statistics are used.

    Returns:
        (N, C') in units of the logit by those of the feature map.

    Source: Selvaraju et al. 2017, arXiv:1610.02391, eq. 1.
    """
    feature_map = attended.feature_map
    cells = feature_map.shape[2] * feature_map.shape[3]
    with torch.enable_grad(), _batch_statistics(network.head) if coupled else evaluating(network.head):
        pooled = network.pool(feature_map.detach()).requires_grad_()
        score = network.classify(pooled).gather(1, target[:, None])
        (gradient,) = torch.autograd.grad(score.sum(), pooled)
    return gradient / cells


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation and every part of it back to its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _batch_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise by the batch without moving the running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    with evaluating(module):
        tracked = [norm.track_running_stats for norm in norms]
        for norm in norms:
            # In training mode and not tracking, batch norm uses the batch and leaves its buffers alone.
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm, flag in zip(norms, tracked, strict=True):
                norm.track_running_stats = flag
