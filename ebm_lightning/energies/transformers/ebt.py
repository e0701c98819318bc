"""Energy-based transformers: an energy over a context and a candidate prediction."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebm_lightning.core import STEP, EnergyModel, State, select_variable
from ebm_lightning.energies.networks.dit import DiT
from ebm_lightning.energies.networks.transformer import Trunk, check_size, linear
from ebm_lightning.energies.transformers.cached_decoding import EBTDecoder, NextCandidate
from ebm_lightning.energies.transformers.decoding import InferenceSettings


@dataclass(frozen=True)
class StepCondition(abc.ABC):
    """How the energy depends on the number k of the descent step: step k uses landscape min(k, landscapes - 1).

    The state then holds k as "descent.step" (B,), int64, from 0. Steps beyond the number of landscapes use the last
    one.

    Args:
        landscapes: the number of different energies, at least 1.

    Raises:
        ValueError: if ``landscapes`` < 1.
    """

    landscapes: int

    def __post_init__(self) -> None:
        if self.landscapes < 1:
            raise ValueError(f"{type(self).__name__}(landscapes={self.landscapes}): expected a number of at least 1")

    def landscape(self, step: Tensor) -> Tensor:
        """The index of the landscape of each step, in the shape of ``step``."""
        return step.clamp(max=self.landscapes - 1)

    @property
    @abc.abstractmethod
    def modulates(self) -> bool:
        """Whether the embedding of the step conditions every block."""

    @abc.abstractmethod
    def precede(self, observed: Tensor, embedded: Tensor) -> Tensor:
        """The observed stream (B, S, dim), preceded by the embedding of the step (B, dim) if that is a token."""


@dataclass(frozen=True)
class StepToken(StepCondition):
    """The embedding of the step as a token before all others: "time_embed", the choice of the released scripts.

    >>> import torch
    >>> StepToken(landscapes=2).landscape(torch.tensor([0, 1, 2, 3])).tolist()
    [0, 1, 1, 1]
    >>> StepToken(landscapes=2).precede(torch.zeros(1, 3, 4), torch.ones(1, 4)).shape
    torch.Size([1, 4, 4])
    """

    @property
    def modulates(self) -> bool:
        return False

    def precede(self, observed: Tensor, embedded: Tensor) -> Tensor:
        return torch.cat([embedded[:, None], observed], 1)


@dataclass(frozen=True)
class StepAdaLN(StepCondition):
    """The embedding of the step as the shift, scale and gate of every block, initialized to zero: "adaln_zero".

    >>> import torch
    >>> StepAdaLN(landscapes=2).precede(torch.zeros(1, 3, 4), torch.ones(1, 4)).shape
    torch.Size([1, 3, 4])
    """

    @property
    def modulates(self) -> bool:
        return True

    def precede(self, observed: Tensor, embedded: Tensor) -> Tensor:
        return observed


class TextEBT(EnergyModel):
    """E(x, y) = sum over positions t of e(x_1..t, y_t): the energy of each candidate y_t for the token after x_1..t.

    x (B, S) are tokens, int64, and y (B, S, vocabulary) candidates for the token after each: distributions over the
    vocabulary, or other values of a sampler. y_t enters a causal transformer as one more element after x_1..t, by a
    linear map W y_t, and e is the output at that element: one pass computes all positions (Trunk.parallel). Since e_t
    depends on no other candidate, descent on the sum is descent at every position. Predictions are made by
    Descent(softmax=True) from NoiseChains(GaussianNoise()), whose results are logits, and trained by TokenPrediction.
    ``positive_phase`` sets the candidates to zero, which gives chains their shape, and the step to 0.
    Gladstone et al. (2025). There are 7 layers dim^2 parameters besides the two maps of the vocabulary.

    Args:
        vocabulary: the number of tokens.
        layers: blocks of the transformer.
        heads: attention heads; dim / heads must be even.
        dim: the width.
        condition: how the energy depends on the number of the descent step, which is then a variable,
            "descent.step"; None if it does not.

    Raises:
        ValueError: if a number is below 1, or ``dim`` is not a multiple of 2 ``heads``.

    >>> import torch
    >>> model = TextEBT(5, layers=1, heads=1, dim=4)
    >>> state = model.positive_phase({"x": torch.tensor([[3, 1, 2]])})
    >>> state["y"].shape, model.local_energies(state).shape, model.energy(state).shape
    (torch.Size([1, 3, 5]), torch.Size([1, 3]), torch.Size([1]))
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
        self.variables = ("x", "y") if condition is None else ("x", "y", STEP)
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
        """e of each position, shape (B, S)."""
        return self._energies(*(select_variable(self, state, name) for name in self.variables))

    def positive_phase(self, batch: State) -> State:
        """The batch, with candidates y of zeros (one number, expanded) and step 0 if it has none."""
        x, like = batch["x"], self.candidate.weight
        state = {"y": like.new_zeros(()).expand(*x.shape, self.vocabulary), **batch}
        if self.condition is not None and STEP not in batch:
            state[STEP] = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return state

    def check(self, state: State) -> None:
        """Raise ValueError if x are not tokens of this model, int64 (B, S)."""
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
        """The observed stream of tokens x (B, S), and the embedding of the step (B, dim), if any."""
        if self.condition is None or self.landscape is None or step is None:
            return self.embedding(x), None
        embedded = self.landscape(self.condition.landscape(step))
        return self.condition.precede(self.embedding(x), embedded), embedded


class ImageEBT(EnergyModel):
    """E(y) = mean over patches of e(y): the energy of a candidate y (B, C, H, W), for denoising.

    The candidate of a batch {"x": noised image, "target": clean image} starts at the noised image, the only use of x:
    Descent moves y, ImagePrediction compares it with the target. The mean over patches is as published: the gradient in
    a patch is 1 / patches of that of a sum, so a step size of 3000 on the 64 patches of a 128 x 128 image corresponds
    to 47 on a sum, and the step size depends on the number of patches. The transformer is a :class:`DiT` with one
    output for each patch and no bias, initialized to zero: the energy is flat before the first update of the
    parameters. Gladstone et al. (2025) and their released code, with patches of 16.

    Args:
        size: height and width of an image.
        patch: height and width of a patch.
        channels: of an image.
        layers: blocks of the transformer.
        heads: attention heads.
        dim: the width, divisible by 4 and by ``heads``.

    Raises:
        ValueError: if a number is below 1, patches do not tile the image, or ``dim`` is not divisible as above.

    >>> import torch
    >>> model = ImageEBT(size=8, patch=4, channels=1, layers=1, heads=1, dim=4)
    >>> state = model.positive_phase({"x": torch.zeros(2, 1, 8, 8)})
    >>> model.per_patch(state).shape, model.energy(state).tolist()  # the last layer is initialized to zero
    (torch.Size([2, 4]), [0.0, 0.0])
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
        """e of each patch, in row-major order, shape (B, patches)."""
        out: Tensor = self.net(select_variable(self, state, "y")).squeeze(-1)
        return out

    def positive_phase(self, batch: State) -> State:
        """The batch, with the candidate y set to the noised image x if it has none."""
        return {"y": batch["x"], **batch}
