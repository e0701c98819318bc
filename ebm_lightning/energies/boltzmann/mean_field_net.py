"""A classifier initialized from the mean field of a deep Boltzmann machine."""

import functools

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.distributions.conditionals import CategoricalConditional
from ebm_lightning.energies.boltzmann.dbm import DBM
from ebm_lightning.energies.boltzmann.units import Softmax


class MeanFieldNet(EnergyModel):
    """E(x, mu2, ..., muL, y) = -f(x, mu)[y]: a network initialized to one more mean-field sweep over the hidden layers.

    h_l = sigmoid(h_{l-1} A_l + mu_{l+1} C_l + c_l) with h_0 = x, and f = h_L V + d. A_l is initialized to W_l of the
    machine, C_l to its transposed W_{l+1}, c_l to its biases; they are trained, untied. mu_{l+1} are the machine's
    mean-field means given x and are not trained: :meth:`positive_phase` adds them to a batch. For two layers this is
    the network of Salakhutdinov & Hinton (2009), section 3.3. Train it by Classification; x may hold gray levels, taken
    as probabilities.

    Args:
        dbm: the trained machine, without centering and with one visible group; its labels, if any, are inferred with
            the hidden units.
        classes: the number of labels, at least 2; y is int64 in 0..classes-1.
        sweeps: the largest number of mean-field sweeps for mu, at least 1; 50 in the paper.
        weight_std: standard deviation of the initial V.

    Raises:
        ValueError: if the machine is not such a DBM, or a number is out of range.

    >>> import torch
    >>> from ebm_lightning.energies import DBM
    >>> from ebm_lightning.energies.boltzmann import Bernoulli
    >>> net = MeanFieldNet(DBM({"x": Bernoulli([4])}, hidden=[3, 2]), classes=10)
    >>> net.variables, net.conditional("y", {"x": torch.zeros(5, 4)}).mean.shape
    (('x', 'mu2', 'y'), torch.Size([5, 10]))
    """

    def __init__(self, dbm: EnergyModel, classes: int, sweeps: int = 50, weight_std: float = 0.1) -> None:
        super().__init__()
        if not isinstance(dbm, DBM) or dbm.centering is not None or len(dbm.layers[0]) != 1:
            raise ValueError(
                f"MeanFieldNet(dbm={type(dbm).__name__}): expected a DBM without centering and with one visible group"
            )
        if sweeps < 1 or weight_std < 0:
            raise ValueError(f"MeanFieldNet(sweeps={sweeps}, weight_std={weight_std}): expected >= 1 and >= 0")
        self.dbm = dbm.requires_grad_(False)
        self.dbm.max_mean_field_steps = sweeps
        (self.x,) = dbm.layers[0]
        self.means = tuple(f"mu{layer}" for layer in range(2, len(dbm.hidden) + 1))
        self.variables = (self.x, *self.means, "y")
        between = [dbm.weights[layer] for layer in range(len(dbm.hidden))]
        self.label = Softmax(classes)
        self.upwards = nn.ParameterList(weight.detach().clone() for weight in between)
        self.downwards = nn.ParameterList(weight.detach().T.clone() for weight in between[1:])
        self.biases = nn.ParameterList(dbm.units(name).bias.detach().clone() for name in dbm.hidden)
        self.output = nn.Linear(between[-1].shape[1], classes)
        nn.init.normal_(self.output.weight, std=weight_std)
        nn.init.zeros_(self.output.bias)

    def forward(self, **state: Tensor) -> Tensor:
        """-f(x, mu)[y], shape (B,)."""
        return -self.logits(state).gather(1, state["y"][:, None]).squeeze(1)

    def logits(self, state: State) -> Tensor:
        """f(x, mu), (B, classes), for a state that holds the mean-field means."""
        h = self.dbm.units(self.x).encode(state[self.x])
        for layer, (weight, bias) in enumerate(zip(self.upwards, self.biases, strict=True)):
            inputs = [torch.addmm(bias, h, weight)]
            if layer < len(self.means):
                inputs.append(state[self.means[layer]] @ self.downwards[layer])
            h = torch.sigmoid(functools.reduce(torch.add, inputs))
        return self.output(h)

    @torch.no_grad()
    def positive_phase(self, batch: State) -> State:
        """The batch with the mean-field means of every hidden layer but the first."""
        self.dbm.eval()
        inferred = self.dbm.positive_phase({self.x: batch[self.x]})
        return {**batch, **{name: inferred[f"h{name.removeprefix('mu')}"] for name in self.means}}

    def conditional(self, block: str, state: State) -> CategoricalConditional:
        """p(y | x) = softmax(f(x, mu)); the mean-field means are inferred if the state lacks them.

        Raises ValueError for another block, or without x.
        """
        if block != "y" or self.x not in state:
            raise ValueError(f"MeanFieldNet has p(y | {self.x}), got the block {block!r} and the state {sorted(state)}")
        return CategoricalConditional(
            self.logits(state if set(self.means) <= state.keys() else self.positive_phase(state))
        )

    def check(self, state: State) -> None:
        """Raise ValueError if x does not have the machine's shape and values in [0, 1], or y is not a label."""
        x = state[self.x]
        if x.shape[1:] != self.dbm.units(self.x).shape or not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(
                f"MeanFieldNet takes {self.x} of shape {self.dbm.units(self.x).shape} with values in [0, 1], got "
                f"{tuple(x.shape[1:])} from {float(x.min()):.4g} to {float(x.max()):.4g}: use the machine's data, "
                "binary or gray"
            )
        if "y" not in state:
            raise ValueError("MeanFieldNet classifies labels 'y', but the data hold none: train on labeled data")
        self.label.check(state["y"])
