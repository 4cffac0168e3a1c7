"""What is minimised, per instant and summed over the instants that count."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import NetworkOutput


def focal_loss(logit: Tensor, label: Tensor, gamma: float, alpha: float | None = None) -> Tensor:
    """Focal loss per instant, any shape; gamma 0 is the cross-entropy.

    Positives weigh `alpha` and negatives 1 - `alpha`, unless it is None: the product's risk is calibrated afterwards.
    Source: Lin et al. 2017, equations 4 and 5.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    wrong = torch.where(label > 0.5, torch.sigmoid(-logit), torch.sigmoid(logit))
    loss = wrong**gamma * cross_entropy
    return loss if alpha is None else torch.where(label > 0.5, alpha, 1.0 - alpha) * loss


def forecast_nats(output: NetworkOutput, z: Tensor) -> Tensor:
    """Laplace negative log-likelihood of every next sample under the forecast made before it.

    Args:
        output: heads over (batch, length).
        z: (batch, length, n_channels) z-scores.

    Returns:
        (batch, length - 1, n_channels) nats; entry t is about sample t + 1.
    """
    mean, log_scale = output.forecast_mean[:, :-1], output.forecast_log_scale[:, :-1]
    return math.log(2.0) + log_scale + (z[:, 1:] - mean).abs() * torch.exp(-log_scale)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of the mask; zero where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
