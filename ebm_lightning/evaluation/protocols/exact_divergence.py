"""Exact divergence of a small model from a known distribution, by enumeration."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, ExactlyNormalized, State, evaluating, require
from ebm_lightning.data.base import DataModule
from ebm_lightning.evaluation.protocol import Measurement, Protocol, ProtocolResult
from ebm_lightning.training.module import EBM


@dataclass(eq=False)
class ExactDivergence(Protocol):
    """KL(data || model) in bits and nats, exactly, by enumeration of the data's patterns and of the model's latents.

    The entropy of the data, a lower bound on the description length of a pattern, and the probability of images that
    are no pattern of the data are measured too. Variables of the model that the data lack are treated as binary latents
    and summed out. For data with a known distribution (``DataModule.true_distribution``) and models with an exact log
    Z.

    Args:
        largest: latents, at most: 2^largest states of each pattern are summed.

    Raises:
        ValueError: when measuring, if there are more latents, or the distribution of the data or log Z is not known.
    """

    largest: int = 20

    def measure(self, module: EBM, data: DataModule) -> ProtocolResult:
        patterns, p = data.true_distribution()
        with evaluating(module.model):
            log_q = exact_log_prob(module.model, {"x": patterns.to(module.device)}, self.largest).cpu()
        possible = p > 0
        entropy = -float((p[possible] * p[possible].log()).sum())
        divergence = float(-(p[possible] * log_q[possible]).sum()) - entropy
        return ProtocolResult(
            {
                "kl_bits": Measurement(divergence / math.log(2), label="KL(data || model), bits"),
                "kl_nats": Measurement(divergence, label="KL(data || model), nats"),
                "data_entropy_bits": Measurement(entropy / math.log(2), label="entropy of the data, bits"),
                "other_images_probability": Measurement(
                    1 - float(log_q.exp().sum()), label="probability of other images"
                ),
            }
        )


@torch.no_grad()
def exact_log_prob(model: EnergyModel, state: State, largest: int = 20) -> Tensor:
    """log p(x) = log sum_h exp(-E(x, h)) - log Z of every example, float64 (B,), summed over all binary latents h.

    The latents are the variables that ``positive_phase`` adds to the state.

    Raises:
        ValueError: if there are more than ``largest`` latent units.
    """
    full = model.positive_phase(state)
    latents = {name: full[name].shape[1:] for name in model.variables if name not in state}
    widths = [math.prod(shape) for shape in latents.values()]
    if sum(widths) > largest:
        raise ValueError(
            f"{type(model).__name__} has {sum(widths)} binary latents, so that 2^{sum(widths)} states of each example "
            f"would be summed: expected at most {largest}; use ImportanceSampledLikelihood, or raise `largest`"
        )
    codes = torch.arange(2 ** sum(widths))[:, None] >> torch.arange(sum(widths)) & 1
    total = torch.full((len(next(iter(state.values()))),), -math.inf, dtype=torch.float64)
    for chunk in torch.split(codes, 2**9):
        n = len(chunk)
        joint = {name: value.repeat_interleave(n, 0) for name, value in state.items()}
        for (name, shape), part in zip(latents.items(), torch.split(chunk, widths, 1), strict=True):
            h = part.to(full[name]).repeat(len(total), 1)
            joint[name] = h.view(-1, *shape)
        energies = model.energy(joint).double().cpu().view(-1, n)
        total = torch.logaddexp(total, torch.logsumexp(-energies, 1))
    return total - require(model, ExactlyNormalized).log_partition(largest).cpu()
