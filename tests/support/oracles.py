"""What the tests compare with: enumeration, counts against probabilities, and tiny instances of the shipped models."""

import itertools
import math
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import lightning.pytorch as L
import torch
from scipy import stats
from torch import Tensor, nn

from ebm_lightning.core import Bounds, Conditional, EnergyModel, State
from ebm_lightning.data.base import DataModule, Loading, Subset
from ebm_lightning.data.sources import InMemory
from ebm_lightning.distributions import CategoricalConditional
from ebm_lightning.energies import (
    JEM,
    RBM,
    ConditionalDeepEnergy,
    DeepEnergy,
    Denoiser,
    DoubleWell,
    Gaussian,
    GaussianMixture,
    HelmholtzMachine,
    ImageEBT,
    Ising,
    JointJEM,
    Mixture,
    Negation,
    NextCandidate,
    NextToken,
    PerClass,
    Product,
    StepAdaLN,
    StepToken,
    StudentTPoE,
    TextEBT,
)
from ebm_lightning.energies.boltzmann.units import Bernoulli, Softmax
from ebm_lightning.energies.boltzmann.units import Gaussian as GaussianUnits
from ebm_lightning.energies.networks import (
    MLP,
    CausalTransformer,
    ConvNet,
    DiTDenoiser,
    IGEBMMnistNet,
    IGEBMNet,
    WideResNet,
)

FALSE_ALARM = 1e-6
"""The probability with which one statistical check fails although the code is right."""

Z = float(stats.norm.isf(FALSE_ALARM / 2))
"""Standard errors that one estimate may lie from the truth, 4.9."""


def identical(a: object, b: object) -> bool:
    """Whether two trees of tensors, dictionaries and sequences are the same, bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(identical, a, b))
    return a == b


def bits(n: int, low: float = 0.0) -> Tensor:
    """All vectors of n binary units, ``low`` or 1, float64 (2^n, n); the last unit changes fastest."""
    return torch.tensor(list(itertools.product((low, 1.0), repeat=n)), dtype=torch.float64)


@torch.no_grad()
def log_partition(model: EnergyModel, states: State) -> Tensor:
    """log sum exp(-E) over the enumerated states."""
    return torch.logsumexp(-model.energy(states), 0)


@torch.no_grad()
def probabilities(model: EnergyModel, states: State) -> Tensor:
    """p of each of the enumerated states, which are all there are."""
    return torch.softmax(-model.energy(states), 0)


def index_of(draws: Tensor) -> Tensor:
    """The row of ``bits(n)`` that each binary vector (B, n) is; a unit is on where it is positive."""
    n = draws.shape[1]
    return ((draws > 0).long() * 2 ** torch.arange(n - 1, -1, -1)).sum(1)


def assert_counts(counts: Tensor, p: Tensor, false_alarm: float = FALSE_ALARM) -> None:
    """Pearson's chi-square test of counts (cells,) of independent draws against their probabilities p (cells,).

    Cells that expect fewer than 5 draws are pooled into one, where the chi-square law would not hold.
    """
    expected = p.double() * counts.sum()
    small = expected < 5
    observed = torch.cat([counts[~small].double(), counts[small].sum()[None].double()])
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    if expected[-1] < 5:
        assert len(expected) > 2, "too few draws for a chi-square test: every cell expects fewer than 5"
        observed = torch.cat([observed[:-2], observed[-2:].sum()[None]])
        expected = torch.cat([expected[:-2], expected[-2:].sum()[None]])
    statistic = float(((observed - expected).square() / expected).sum())
    threshold = float(stats.chi2.isf(false_alarm, len(expected) - 1))
    assert statistic < threshold, f"chi-square {statistic:.1f} of {len(expected) - 1} degrees exceeds {threshold:.1f}"


def assert_means(draws: Tensor, expected: Tensor, false_alarm: float = FALSE_ALARM) -> None:
    """The means of independent draws (n, ...) against their expectations (...), within z standard errors.

    z is the normal quantile at the false-alarm rate, shared out over the numbers compared (Bonferroni).
    """
    error = draws.std(0) / math.sqrt(len(draws))
    z = float(stats.norm.isf(false_alarm / (2 * expected.numel())))
    off = ((draws.mean(0) - expected).abs() / error).max()
    assert off < z, f"a mean is {float(off):.2f} standard errors off, expected less than {z:.2f}"


@torch.no_grad()
def unit_probabilities(energy: Callable[[State], Tensor], state: State, block: str, low: float = 0.0) -> Tensor:
    """p(unit = 1 | everything else) = sigmoid(E_off - E_on), unit by unit, in the shape of the block.

    Off is ``low`` (0 for binary units, -1 for spins); the other units of the block stay as they are in ``state``.
    """
    out = torch.empty_like(state[block])
    for unit in range(out[0].numel()):
        off, on = state[block].clone(), state[block].clone()
        off.flatten(1)[:, unit], on.flatten(1)[:, unit] = low, 1.0
        out.flatten(1)[:, unit] = torch.sigmoid(energy({**state, block: off}) - energy({**state, block: on}))
    return out


def gradients(model: EnergyModel, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of a loss by parameter; zeros where the loss does not depend on it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def perturbed(model: EnergyModel) -> EnergyModel:
    """The model in float64 and eval mode, every parameter moved, so that no zero of the start hides a term."""
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


class LinearClassifier(EnergyModel):
    """E(x) = -logsumexp_k f(x)_k with f(x) = W x + b, so that p(y | x) = softmax(f(x)).

    Args:
        weight: W, (classes, numbers of an x).
        bias: b, (classes,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def logits(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def forward(self, x: Tensor) -> Tensor:
        return -torch.logsumexp(self.logits(x), 1)

    def conditional(self, block: str, state: State) -> Conditional:
        assert block not in state, "the label must not be seen"
        return CategoricalConditional(self.logits(state["x"])) if block == "y" else super().conditional(block, state)


class Examples(DataModule):
    """Given test examples, which are those for training and validation too.

    Args:
        x: the examples.
        y: their labels, or None.
        classes: how many labels there are.
        bounds: of x.
        val_size: how many are held out.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        classes: int | None = None,
        bounds: Bounds | None = None,
        val_size: int = 0,
    ) -> None:
        super().__init__(1000, val_size=val_size, loading=Loading(seed=0))
        self.rows: State = {"x": x} if y is None else {"x": x, "y": y}
        self.classes, self.bounds = classes, bounds

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows["x"].shape[1:])

    def load(self) -> tuple[Subset, Subset]:
        rows = Subset(InMemory(self.rows), torch.arange(len(self.rows["x"])))
        return rows, rows


def normal(name: str, *shape: int) -> Callable[[int], State]:
    """A factory of states of one float64 variable from N(0, 1)."""
    return lambda n: {name: torch.randn(n, *shape, dtype=torch.float64)}


def binary(*variables: tuple[str, int], low: float = 0.0) -> Callable[[int], State]:
    """A factory of states of binary vectors, fair coins of ``low`` and 1, float64."""
    return lambda n: {name: torch.randint(0, 2, (n, width)).double() * (1 - low) + low for name, width in variables}


def spins(side: int) -> Callable[[int], State]:
    """A factory of states of the two colors of an Ising lattice."""
    shape = (side, side // 2)
    return lambda n: {name: torch.randint(0, 2, (n, *shape)).double() * 2 - 1 for name in ("even", "odd")}


def labeled(*shape: int, classes: int) -> Callable[[int], State]:
    """A factory of states of a float64 x from N(0, 1) and an integer label y."""
    return lambda n: {"x": torch.randn(n, *shape, dtype=torch.float64), "y": torch.randint(0, classes, (n,))}


def text(positions: int, vocabulary: int) -> Callable[[int], State]:
    """A factory of states of tokens x and target, float64 candidates y from N(0, 1) and a number of steps."""
    return lambda n: {
        "x": torch.randint(0, vocabulary, (n, positions)),
        "target": torch.randint(0, vocabulary, (n, positions)),
        "y": torch.randn(n, positions, vocabulary, dtype=torch.float64),
        "descent.step": torch.randint(0, 4, (n,)),
    }


def images(*shape: int) -> Callable[[int], State]:
    """A factory of states of float64 images x, y and target from N(0, 1)."""
    return lambda n: {name: torch.randn(n, *shape, dtype=torch.float64) for name in ("x", "y", "target")}


def mixed_rbm(centering: float | None = None) -> RBM:
    """Four binary units, two normal ones, a label of three classes and two categories of two; 3 hidden units."""
    groups = {
        "v": Bernoulli([2, 2]),
        "x": GaussianUnits([2], std=0.7),
        "y": Softmax(3),
        "z": Softmax(2, [2]),
    }
    model = RBM(groups, 3, weight_std=1.0, centering=centering)
    if centering is not None:
        model.row_offset.uniform_()
        model.hidden_offset.uniform_()
    return model


def mixed(n: int) -> State:
    """n states of :func:`mixed_rbm`."""
    return {
        "v": torch.randint(0, 2, (n, 2, 2)).double(),
        "x": torch.randn(n, 2, dtype=torch.float64),
        "y": torch.randint(0, 3, (n,)),
        "z": torch.randint(0, 2, (n, 2)),
    }


class Case(NamedTuple):
    """A tiny instance of a shipped model: float64, in eval mode, and a factory of states of n examples."""

    name: str
    model: Callable[[], EnergyModel]
    state: Callable[[int], State]


TINY_STAGES = ((4, 2), (6, 1))

ENERGIES: list[Case] = [
    Case("gaussian", lambda: Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]).double(), normal("x", 2)),
    Case(
        "mixture",
        lambda: GaussianMixture([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]], 0.5, [0.5, 0.3, 0.2]).double(),
        normal("x", 2),
    ),
    Case("double_well", lambda: DoubleWell(dim=3, barrier=2.0, tilt=0.3), normal("x", 3)),
    Case("ising", lambda: Ising(side=4, coupling=0.3, field=0.1), spins(4)),
    Case("rbm", lambda: perturbed(RBM({"v": Bernoulli([5])}, 3, weight_std=1.0)), binary(("v", 5))),
    Case("rbm_mixed", lambda: perturbed(mixed_rbm()), mixed),
    Case("rbm_centered", lambda: perturbed(mixed_rbm(centering=0.1)), mixed),
    Case("mlp", lambda: perturbed(DeepEnergy(MLP(4, [6, 5]))), normal("x", 2, 2)),
    Case(
        "conv",
        lambda: perturbed(DeepEnergy(ConvNet(widths=(3, 4), features=5, size=8, stem_padding=2))),
        normal("x", 1, 8, 8),
    ),
    Case("igebm", lambda: perturbed(DeepEnergy(IGEBMNet(2, 4, TINY_STAGES, dropout=0.5))), normal("x", 2, 8, 8)),
    Case(
        "igebm_conditional",
        lambda: perturbed(ConditionalDeepEnergy(IGEBMNet(2, 4, TINY_STAGES, classes=3, activation=nn.SiLU()))),
        labeled(2, 8, 8, classes=3),
    ),
    Case("igebm_mnist", lambda: perturbed(DeepEnergy(IGEBMMnistNet(width=2, size=10))), normal("x", 1, 10, 10)),
    Case(
        "igebm_mnist_conditional",
        lambda: perturbed(ConditionalDeepEnergy(IGEBMMnistNet(width=2, classes=3, size=8))),
        labeled(1, 8, 8, classes=3),
    ),
    Case("jem", lambda: perturbed(JEM(MLP(4, [6], outputs=3), 3)), normal("x", 2, 2)),
    Case("jem_joint", lambda: perturbed(JointJEM(JEM(MLP(3, [6], outputs=3), 3))), labeled(3, classes=3)),
    Case(
        "jem_wide_resnet",
        lambda: perturbed(JEM(WideResNet(10, 1, classes=3, channels=1), 3)),
        normal("x", 1, 4, 4),
    ),
    Case("student_t_poe", lambda: perturbed(StudentTPoE([2, 2], 5, containment=0.3)), normal("x", 2, 2)),
    Case("per_class", lambda: perturbed(PerClass(StudentTPoE([3], 4), 3)), labeled(3, classes=3)),
    Case(
        "helmholtz",
        lambda: perturbed(HelmholtzMachine({"x": Bernoulli([4])}, [3, 2], weight_std=1.0)),
        binary(("x", 4), ("h1", 3), ("h2", 2)),
    ),
    Case("text_ebt", lambda: perturbed(TextEBT(5, layers=2, heads=2, dim=8)), text(3, 5)),
    Case(
        "text_ebt_token",
        lambda: perturbed(TextEBT(5, layers=2, heads=2, dim=8, condition=StepToken(3))),
        text(3, 5),
    ),
    Case(
        "text_ebt_adaln",
        lambda: perturbed(TextEBT(5, layers=2, heads=2, dim=8, condition=StepAdaLN(3))),
        text(3, 5),
    ),
    Case(
        "next_candidate",
        lambda: perturbed(NextCandidate(TextEBT(5, layers=2, heads=2, dim=8), torch.tensor([3, 0, 3]))),
        normal("y", 5),
    ),
    Case("next_token", lambda: perturbed(NextToken(CausalTransformer(5, layers=2, heads=2, dim=8))), text(3, 5)),
    Case(
        "image_ebt",
        lambda: perturbed(ImageEBT(4, patch=2, channels=2, layers=2, heads=2, dim=8)),
        images(2, 4, 4),
    ),
    Case(
        "denoiser",
        lambda: perturbed(Denoiser(DiTDenoiser(4, patch=2, channels=1, layers=1, heads=1, dim=4))),
        images(1, 4, 4),
    ),
    Case(
        "product",
        lambda: perturbed(
            Product(
                [ConditionalDeepEnergy(IGEBMMnistNet(width=2, classes=3, size=8)), Negation(DeepEnergy(MLP(64, [4])))]
            )
        ),
        labeled(1, 8, 8, classes=3),
    ),
    Case(
        "mixture_of_models",
        lambda: perturbed(Mixture([StudentTPoE([3], 4), DeepEnergy(MLP(3, [5]))], [0.5, 3.0])),
        normal("x", 3),
    ),
]
"""One case for every shipped energy, for the shared property tests."""


class Linear(EnergyModel):
    """E(x) = |W x|^2 / 2."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).square().sum(1) / 2


class AsksItself(L.Callback):
    """Sends the process of one rank SIGUSR1 in a training step, the first being 1."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: L.Trainer, *rest: object) -> None:
        if trainer.global_rank == self.rank and trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)
