"""Noise-contrastive estimation: the energy learns by telling data from noise, and learns log Z on the way."""

import math
from dataclasses import KW_ONLY, dataclass

from torch.nn.functional import logsigmoid

from ebm_lightning.core import EnergyModel, Noise, Objective, State, Terms, select_variable


@dataclass(frozen=True)
class NoiseContrastive(Objective):
    """Logistic regression of data against noise with logit G(u) = -E(u) - log q(u) - log(ratio).

    loss = -mean log sigmoid(G(data)) - ratio mean log sigmoid(-G(noise)), with ``ratio`` draws from q for every datum;
    the clamped variables are repeated for them. The minimum is exp(-E) = p, normalized: a free additive constant in the
    energy, such as the net's last bias, comes out as log Z. q must be positive wherever there are data; outside its
    support the datum teaches nothing.
    Terms: ``loss``; means ``energy_data`` and ``energy_noise``; ``accuracy``, the mean of the two shares of data and of
    noise that are told apart.
    Gutmann & Hyvarinen (2010), eq. 3; (2012) for ratios other than 1.

    Args:
        noise: q, the distribution compared with; near the data but spread wider.
        ratio: noise draws per datum, at least 1.
        block: the variable that is drawn, shape (B, ...); every other one is clamped.

    Raises:
        ValueError: where ``ratio`` < 1; at a call, where energy or data lack ``block``.
    """

    noise: Noise
    _: KW_ONLY
    ratio: int = 1
    block: str = "x"

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise ValueError(f"NoiseContrastive(ratio={self.ratio}): expected at least 1 noise draw per datum")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        x = select_variable(model, pos, self.block)
        repeated = {name: pos[name].repeat_interleave(self.ratio, 0) for name in model.variables if name in pos}
        u = self.noise.sample(repeated[self.block])
        energy_data, energy_noise = model.energy(pos), model.energy({**repeated, self.block: u})
        data = -energy_data - self.noise.log_prob(x) - math.log(self.ratio)
        noise = -energy_noise - self.noise.log_prob(u) - math.log(self.ratio)
        told_apart = (data > 0).to(data.dtype).mean() + (noise < 0).to(noise.dtype).mean()
        return {
            "loss": -logsigmoid(data).mean() - self.ratio * logsigmoid(-noise).mean(),
            "energy_data": energy_data.detach().mean(),
            "energy_noise": energy_noise.detach().mean(),
            "accuracy": told_apart / 2,
        }
