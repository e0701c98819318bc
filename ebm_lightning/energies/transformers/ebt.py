"""Energy-based transformers: an energy over a context and a candidate for what follows it."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies.networks.dit import DiT
from ebm_lightning.energies.networks.transformer import Trunk, check_size, linear
from ebm_lightning.energies.transformers.cached_decoding import EBTDecoder, NextCandidate
from ebm_lightning.energies.transformers.decoding import InferenceSettings


@dataclass(frozen=True)
class StepCondition(abc.ABC):
    """How the energy depends on the number of the step that is taken on it: step k sees landscape min(k, landscapes-1).

    A state then holds that number, "step" (B,), int64, from 0. More steps than landscapes are steps on the last one.

    Args:
        landscapes: different energies, at least 1.

    Raises:
        ValueError: where ``landscapes`` < 1.
    """

    landscapes: int

    def __post_init__(self) -> None:
        if self.landscapes < 1:
            raise ValueError(f"{type(self).__name__}(landscapes={self.landscapes}): expected a number of at least 1")

    def landscape(self, step: Tensor) -> Tensor:
        """The landscape that each step is taken on, in the shape of ``step``."""
        return step.clamp(max=self.landscapes - 1)

    @property
    @abc.abstractmethod
    def modulates(self) -> bool:
        """Whether the embedding of the step is a condition of every block."""

    @abc.abstractmethod
    def precede(self, observed: Tensor, embedded: Tensor) -> Tensor:
        """The observed stream (B, S, dim), with the embedding of the step (B, dim) before it where it is a token."""


@dataclass(frozen=True)
class StepToken(StepCondition):
    """The embedding of the step is a token before all others: "time_embed", the one of the released scripts."""

    @property
    def modulates(self) -> bool:
        return False

    def precede(self, observed: Tensor, embedded: Tensor) -> Tensor:
        return torch.cat([embedded[:, None], observed], 1)


@dataclass(frozen=True)
class StepAdaLN(StepCondition):
    """The embedding of the step shifts, scales and gates every block, from zero on: "adaln_zero"."""

    @property
    def modulates(self) -> bool:
        return True

    def precede(self, observed: Tensor, embedded: Tensor) -> Tensor:
        return observed


class TextEBT(EnergyModel):
    """E(x, y) = sum over positions t of e(x_1..t, y_t): how badly y_t answers what has been read up to t.

    x (B, S) are tokens, int64, and y (B, S, vocabulary) candidates for the token after each: distributions over the
    vocabulary, or whatever a sampler makes of them. y_t enters a causal transformer as one more element after x_1..t,
    by a linear map W y_t, and e is read there: one pass serves all positions (Trunk.parallel). Since e_t depends on no
    other candidate, descent on the sum is descent at every position. A prediction is reached by
    Descent(normalize=True) from NoiseChains(GaussianNoise()), and trained by TokenPrediction; its positions are logits.
    ``positive_phase`` begins every candidate at zero, the shape for the chains, and every count of steps at 0.
    Gladstone et al. (2025); there are 7 layers dim^2 parameters beside the two maps of the vocabulary.

    Args:
        vocabulary: the number of tokens.
        layers: blocks of the transformer.
        heads: of attention; dim / heads must be even.
        dim: the width.
        condition: how the energy depends on the number of the step; None is not at all. Where it does, "step" is a
            variable too.

    Raises:
        ValueError: where a number is below 1, or the heads do not share ``dim`` evenly.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        layers: int = 6,
        heads: int = 6,
        dim: int = 384,
        condition: StepCondition | None = None,
    ) -> None:
        super().__init__()
        check_size(type(self).__name__, vocabulary=vocabulary, layers=layers, heads=heads, dim=dim)
        self.vocabulary, self.condition = vocabulary, condition
        self.variables = ("x", "y") if condition is None else ("x", "y", "step")
        self.embedding = nn.Embedding(vocabulary, dim)
        self.candidate = linear(vocabulary, dim)
        self.landscape = None if condition is None else nn.Embedding(condition.landscapes, dim)
        self.trunk = Trunk(layers, heads, dim, conditioned=condition is not None and condition.modulates)
        self.head = linear(dim, 1)

    def forward(self, x: Tensor, y: Tensor, step: Tensor | None = None) -> Tensor:
        """E(x, y), shape (B,)."""
        energies = self._energies(x, y, step)
        return energies.sum(1, dtype=torch.promote_types(energies.dtype, torch.float32))

    def local_energies(self, state: State) -> Tensor:
        """e of every position, shape (B, S)."""
        return self._energies(*(self.value(state, name) for name in self.variables))

    def positive_phase(self, batch: State) -> State:
        """The batch, with candidates y of zeros (one number, expanded) and step 0, where it has none."""
        x, like = batch["x"], self.candidate.weight
        state = {"y": like.new_zeros(()).expand(*x.shape, self.vocabulary), **batch}
        if self.condition is not None and "step" not in batch:
            state["step"] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return state

    def check(self, state: State) -> None:
        """Raises ValueError where x holds anything but tokens of this model, int64 (B, S)."""
        x = state["x"]
        if x.dtype != torch.int64 or x.ndim != 2 or not bool(((x >= 0) & (x < self.vocabulary)).all()):
            raise ValueError(
                f"TextEBT(vocabulary={self.vocabulary}) takes tokens 0..{self.vocabulary - 1} of dtype int64 and shape "
                f"(examples, positions), got {x.dtype} of shape {tuple(x.shape)} from {float(x.min()):g} to "
                f"{float(x.max()):g}: give the model the vocabulary of the data"
            )

    def make_decoder(self, x: Tensor, settings: InferenceSettings) -> EBTDecoder:
        """The decoder after a context x (S,), int64, at least one token.

        Raises:
            ValueError: if the run has no sampler that moves y alone, or x has an unknown token.
        """
        if settings.sampler is None or settings.sampler.free != ("y",):
            raise ValueError(
                f"TextEBT generates text by a sampler that moves ('y',), got {type(settings.sampler).__name__}: give "
                "EBM such a sampler"
            )
        return EBTDecoder(NextCandidate(self, x), settings)

    def _energies(self, x: Tensor, y: Tensor, step: Tensor | None = None) -> Tensor:
        observed, embedded = self.observed(x, step)
        out: Tensor = self.head(self.trunk.parallel(observed, self.candidate(y), embedded)).squeeze(-1)
        return out

    def observed(self, x: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The observed stream of tokens x (B, S), and the embedding of the step (B, dim) where the energy has one."""
        if self.condition is None or self.landscape is None or step is None:
            return self.embedding(x), None
        embedded = self.landscape(self.condition.landscape(step))
        return self.condition.precede(self.embedding(x), embedded), embedded


class ImageEBT(EnergyModel):
    """E(y) = mean over patches of e(y): how little a candidate y (B, C, H, W) looks like an image, for denoising.

    A batch {"x": noised image, "target": clean image} begins its candidate at the noised image, and there alone does x
    enter: Descent moves y, ImagePrediction compares it with the target. The mean is the published one: the gradient in
    a patch is 1 / patches of that of a sum, so a step size of 3000 on the 64 patches of a 128 x 128 image is one of 47
    on a sum, and another number of patches wants another step size. The transformer is a :class:`DiT` with one output
    for each patch and no bias, which starts at zero: the first update of the parameters leaves an energy to descend.
    Gladstone et al. (2025) and their released code, with patches of 16.

    Args:
        size: height and width of an image.
        patch: height and width of a patch.
        channels: of an image.
        layers: blocks of the transformer.
        heads: of attention.
        dim: the width, divisible by 4 and by ``heads``.

    Raises:
        ValueError: where a number is below 1, patches do not tile the image, or ``dim`` cannot be shared out.
    """

    def __init__(
        self, size: int, *, patch: int = 16, channels: int = 3, layers: int = 6, heads: int = 6, dim: int = 384
    ) -> None:
        super().__init__()
        self.net = DiT(size, outputs=1, patch=patch, channels=channels, layers=layers, heads=heads, dim=dim)

    def forward(self, y: Tensor) -> Tensor:
        """E(y), shape (B,)."""
        return self.per_patch({"y": y}).mean(1)

    def per_patch(self, state: State) -> Tensor:
        """e of every patch, row by row, shape (B, patches)."""
        out: Tensor = self.net(self.value(state, "y")).squeeze(-1)
        return out

    def positive_phase(self, batch: State) -> State:
        """The batch, with the candidate y at the noised image x where it has none."""
        return {"y": batch["x"], **batch}
