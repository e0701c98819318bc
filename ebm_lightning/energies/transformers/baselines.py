"""Networks that predict in one pass, as energies: the baselines of energy-based transformers."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.core import EnergyModel, State
from ebm_lightning.energies.networks.transformer import Cache, CausalTransformer
from ebm_lightning.energies.transformers.decoding import InferenceSettings, Prediction


@dataclass(frozen=True)
class AutoregressiveDecoder:
    """A context that a language model has processed, and the logits after it.

    Args:
        net: the language model.
        logits: of the token after the context, (vocabulary,).
        cache: keys and values of the context.
    """

    net: CausalTransformer
    logits: Tensor
    cache: Cache

    def extend(self, x: Tensor) -> "AutoregressiveDecoder":
        """The decoder after further tokens x (n,), int64."""
        logits, cache = self.net.read(x[None], self.cache)
        return AutoregressiveDecoder(self.net, logits[0, -1], cache)

    def next_logits(self) -> Prediction:
        """The logits after the context, without energies."""
        return Prediction(self.logits)


class NextToken(EnergyModel):
    """E(x, target) = -sum over positions of log p(target_t given x_1..t), in nats: a language model. Its log Z is 0.

    ``positive_phase`` adds the logits y of a pass, (B, S, vocabulary), with their graph, so that TokenPrediction
    compares them with the targets like the end of a sampler's chain: EBM then needs no sampler.

    Args:
        net: tokens x (B, S), int64 -> logits (B, S, vocabulary), such as a CausalTransformer.

    >>> import torch
    >>> net = torch.nn.Embedding.from_pretrained(torch.zeros(4, 4))  # equal logits for 4 tokens
    >>> x = torch.tensor([[0, 1, 2]])
    >>> round(NextToken(net).energy({"x": x, "target": x}).item(), 4)  # 3 log 4
    4.1589
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """E(x, target), shape (B,), for targets (B, S), int64."""
        logits = cast(Tensor, self.net(x))
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none").sum(1)

    def positive_phase(self, batch: State) -> State:
        """The batch, with the logits y of every position."""
        return {**batch, "y": self.net(batch["x"])}

    def make_decoder(self, x: Tensor, settings: InferenceSettings) -> AutoregressiveDecoder:
        """The decoder after a context x (S,), int64, at least one token.

        Raises:
            ValueError: if the run has a sampler, the network is no CausalTransformer, or x has an unknown token.
        """
        if settings.sampler is not None or not isinstance(self.net, CausalTransformer):
            raise ValueError(
                f"NextToken generates text by a CausalTransformer in one pass, without a sampler; got "
                f"{type(self.net).__name__} and the sampler {type(settings.sampler).__name__}"
            )
        known = self.net.embedding.num_embeddings
        if int(x.max()) >= known:
            raise ValueError(
                f"the text has the token {int(x.max())}, but the vocabulary of the model is 0..{known - 1}"
            )
        return AutoregressiveDecoder(self.net, torch.empty(0), Cache()).extend(x)


class Denoiser(EnergyModel):
    """E(x, target) = |target - net(x)|^2 / 2: a network that denoises x (B, ...) in one pass.

    Up to log Z it is a normal distribution around net(x). ``positive_phase`` adds its prediction y, with its graph, so
    that ImagePrediction compares it with the target: EBM then needs no sampler.

    Args:
        net: x -> y in the shape of x, such as a DiTDenoiser.

    >>> import torch
    >>> energy = Denoiser(torch.nn.Identity())
    >>> energy.energy({"x": torch.zeros(1, 2), "target": torch.ones(1, 2)}).item()
    1.0
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """E(x, target), shape (B,)."""
        return (target - cast(Tensor, self.net(x))).square().flatten(1).sum(1) / 2

    def positive_phase(self, batch: State) -> State:
        """The batch, with the denoised y."""
        return {**batch, "y": self.net(batch["x"])}
