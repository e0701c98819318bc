"""Contrastive divergence: the mean energy of data minus that of samples."""

from dataclasses import dataclass

from ebm_lightning.core import EnergyModel, Objective, State, Terms, joint_energies


@dataclass(frozen=True)
class ContrastiveDivergence(Objective):
    """mean E(data) - mean E(chains) + l2 (mean E(data)^2 + mean E(chains)^2).

    If the chains are samples from p, the gradient of the contrast is that of the mean of -log p(data): maximum
    likelihood. With chains that start at the data it is CD-k, with persistent chains PCD. The chains are detached: the
    contrast is not differentiated through the sampler. The gap is invariant to a shift of the energy; ``l2`` keeps the
    energies near zero (1.0 in IGEBM, 0.1 in the UvA tutorial).
    Terms: ``loss``; ``gap``, data minus chains; means ``energy_data``, ``energy_chains`` and standard deviations
    ``energy_data_std``, ``energy_chains_std`` over the batch; ``l2``, the weighted penalty, if the weight is > 0.
    Hinton (2002); Du & Mordatch (2019), section 3.

    Args:
        l2: weight of the penalty on squared energies, >= 0.

    Raises:
        ValueError: if ``l2`` < 0; at a call, if there are no chains.

    >>> import torch
    >>> from ebm_lightning.energies import Gaussian
    >>> energy, data, chains = Gaussian(mean=[0.0], covariance=[1.0]), torch.zeros(2, 1), torch.full((2, 1), 2.0)
    >>> ContrastiveDivergence()(energy, {"x": data}, {"x": chains})["gap"].item()
    -2.0
    """

    l2: float = 0.0

    def __post_init__(self) -> None:
        if not self.l2 >= 0:
            raise ValueError(f"ContrastiveDivergence(l2={self.l2}): expected a number >= 0")

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        if neg is None:
            raise ValueError("ContrastiveDivergence compares data with samples, but there are none: give EBM a sampler")
        data, chains = joint_energies(model, pos, {name: value.detach() for name, value in neg.items()})
        gap = loss = data.mean() - chains.mean()
        terms = {
            "gap": gap.detach(),
            "energy_data": data.detach().mean(),
            "energy_chains": chains.detach().mean(),
            "energy_data_std": data.detach().std(correction=0),
            "energy_chains_std": chains.detach().std(correction=0),
        }
        if self.l2 > 0:
            l2 = self.l2 * (data.square().mean() + chains.square().mean())
            loss, terms["l2"] = gap + l2, l2.detach()
        return {"loss": loss, **terms}
