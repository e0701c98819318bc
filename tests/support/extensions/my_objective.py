"""An objective defined outside the package: logistic instead of linear in the energies of data and samples."""

from dataclasses import dataclass

from torch.nn.functional import softplus

from ebm_lightning.core import EnergyModel, Objective, State, Terms, joint_energies


@dataclass(frozen=True)
class LogisticContrast(Objective):
    """mean softplus(E(data) - offset) + mean softplus(offset - E(chains)): a classifier of data against samples.

    The gradient of an example vanishes as soon as its energy is on the right side of the offset by a margin, so that no
    energy grows without bound. The chains are detached. Terms: ``loss``; ``gap``, the mean energy of data minus that of
    chains.

    Args:
        offset: the energy that separates data from samples.

    Raises:
        ValueError: at a call, if there are no chains.
    """

    offset: float = 0.0

    def __call__(self, model: EnergyModel, pos: State, neg: State | None) -> Terms:
        if neg is None:
            raise ValueError("LogisticContrast compares data with samples, but there are none: give EBM a sampler")
        data, chains = joint_energies(model, pos, {name: value.detach() for name, value in neg.items()})
        loss = softplus(data - self.offset).mean() + softplus(self.offset - chains).mean()
        return {"loss": loss, "gap": data.detach().mean() - chains.detach().mean()}
