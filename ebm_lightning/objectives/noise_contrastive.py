"""Noise-contrastive estimation: logistic regression of data against noise, which estimates log Z as well."""

import math
from dataclasses import KW_ONLY, dataclass

from torch.nn.functional import logsigmoid

from ebm_lightning.core import EnergyModel, Noise, Objective, State, Terms, select_variable


@dataclass(frozen=True)
class NoiseContrastive(Objective):
    """Logistic regression of data against noise with logit G(u) = -E(u) - log q(u) - log(ratio).

    loss = -mean log sigmoid(G(data)) - ratio mean log sigmoid(-G(noise)), with ``ratio`` draws from q per example; the
    clamped variables are repeated for them. At the minimum exp(-E) = p is normalized: a free additive constant of the
    energy, such as the net's last bias, converges to log Z. q must be positive at the data; examples outside its
    support have no gradient.
    Terms: ``loss``; means ``energy_data`` and ``energy_noise``; ``accuracy``, the mean of the shares of data and of
    noise that are classified correctly.
    Gutmann & Hyvarinen (2010), eq. 3; (2012) for ratios other than 1.

    Args:
        noise: q, the noise distribution; near the data and broader.
        ratio: noise draws per example, at least 1.
        block: the variable to draw, shape (B, ...); all others are clamped.

    Raises:
        ValueError: if ``ratio`` < 1; at a call, if energy or data lack ``block``.

    >>> import torch
    >>> from ebm_lightning.distributions import GaussianNoise
    >>> from ebm_lightning.energies import GaussianMixture
    >>> model = GaussianMixture(means=[[0.0]], std=1.0)  # equal to the noise distribution
    >>> terms = NoiseContrastive(GaussianNoise())(model, {"x": torch.zeros(5, 1)}, None)
    >>> round(terms["loss"].item(), 4)  # 2 log 2
    1.3863
    """

    noise: Noise
    _: KW_ONLY
    ratio: int = 1
    block: str = "x"

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise ValueError(f"NoiseContrastive(ratio={self.ratio}): expected at least 1 noise draw per example")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        x = select_variable(model, pos, self.block)
        repeated = {name: pos[name].repeat_interleave(self.ratio, 0) for name in model.variables if name in pos}
        u = self.noise.sample(repeated[self.block])
        energy_data, energy_noise = model.energy(pos), model.energy({**repeated, self.block: u})
        data = -energy_data - self.noise.log_prob(x) - math.log(self.ratio)
        noise = -energy_noise - self.noise.log_prob(u) - math.log(self.ratio)
        correct = (data > 0).to(data.dtype).mean() + (noise < 0).to(noise.dtype).mean()
        return {
            "loss": -logsigmoid(data).mean() - self.ratio * logsigmoid(-noise).mean(),
            "energy_data": energy_data.detach().mean(),
            "energy_noise": energy_noise.detach().mean(),
            "accuracy": correct / 2,
        }
