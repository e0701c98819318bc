"""Feed-forward networks as energies: the baselines of energy-based transformers, which predict in one pass."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ebm_lightning.core import EnergyModel, State


class NextToken(EnergyModel):
    """E(x, target) = -sum over positions of log p(target_t given x_1..t), in nats: a language model. Its log Z is 0.

    ``positive_phase`` adds the logits y of a pass, (B, S, vocabulary), with their graph, so that TokenPrediction
    compares them with the targets as it does with the result of a sampler: EBM then needs no sampler.

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


class Denoiser(EnergyModel):
    """E(x, target) = |target - net(x)|^2 / 2: a network that denoises x (B, ...) in one pass; p is normal.

    ``positive_phase`` adds the output y, with its graph, so that ImagePrediction compares it with the target: EBM then
    needs no sampler.

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
