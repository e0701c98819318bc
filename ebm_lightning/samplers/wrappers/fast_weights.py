"""Fast weights: faster mixing by weights that raise the energy at the recent positions of the chains."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ebm_lightning.core import AdaptiveSampler, EnergyModel, Info, Sampler, State


class FastWeights(AdaptiveSampler):
    """Fast PCD: the chains move under theta + fast, with fast <- decay fast - rate dloss/dtheta once per training step.

    The updates of theta drive persistent chains out of their modes; fast weights do so at their own rate, which stays
    constant while the learning rate of theta decays, and they decay. Both use the same gradient, dloss/dtheta before
    clipping. The model is theta: energies and log-likelihoods are without the fast weights. Chains move with them, and
    so do samples for pictures during a run; a process that loads a trained model, `ebm sample` or `ebm test`, has no
    fast weights and samples by the inner sampler.
    Info: that of the inner sampler. Tieleman & Hinton (2009).

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.
        rate: learning rate of the fast weights, >= 0 and constant, of the order of the initial learning rate.
        decay: factor of the fast weights in each step, in [0, 1); 19/20 in the paper.

    Raises:
        ValueError: if ``rate`` < 0, ``decay`` lies outside [0, 1), or the inner sampler is adaptive too; at a step, if
            grad mode is on, since the shifted weights are not in the graph.

    >>> import torch
    >>> from ebm_lightning.energies import DeepEnergy
    >>> from ebm_lightning.samplers import SGLD
    >>> model, sampler = DeepEnergy(torch.nn.Linear(1, 1)), FastWeights(SGLD(1.0, noise=0.0), rate=0.5)
    >>> model.net.weight.grad = torch.ones(1, 1)  # the gradient of a training step
    >>> sampler.update(model)
    >>> sampler.state_dict()["net.weight"].item()
    -0.5
    """

    def __init__(self, sampler: Sampler, *, rate: float, decay: float = 0.95) -> None:
        if not (rate >= 0 and 0 <= decay < 1):
            raise ValueError(f"FastWeights(rate={rate}, decay={decay}): expected rate >= 0 and decay in [0, 1)")
        if isinstance(sampler, AdaptiveSampler):
            raise ValueError(f"FastWeights({type(sampler).__name__}): only one sampler can be adaptive: choose one")
        self.sampler, self.rate, self.decay = sampler, rate, decay
        self.free, self.bounds = sampler.free, sampler.bounds
        self.fast: State = {}

    def augment_state(self, state: State) -> State:
        return self.sampler.augment_state(state)

    def energy_input(self, state: State) -> State:
        return self.sampler.energy_input(state)

    def step(self, model: EnergyModel, state: State, with_info: bool = True) -> tuple[State, Info]:
        if torch.is_grad_enabled():
            raise ValueError(
                "FastWeights cannot move chains inside an autograd graph, since their weights are not the model's: "
                "set backprop: 0, or call it under torch.no_grad()"
            )
        with shifted(model, self.fast):
            return self.sampler.step(model, state, with_info)

    @torch.no_grad()
    def update(self, model: EnergyModel) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                fast = self.fast.get(name, torch.zeros_like(parameter))
                self.fast[name] = self.decay * fast - self.rate * parameter.grad

    def state_dict(self) -> State:
        return dict(self.fast)

    def load_state_dict(self, state: State) -> None:
        self.fast = dict(state)


@contextmanager
def shifted(model: EnergyModel, shift: State) -> Iterator[None]:
    """Add ``shift`` to the parameters of a model, by name; afterwards they are the same tensors as before."""
    parameters = {name: p for name, p in model.named_parameters() if name in shift}
    own: State = {}
    try:
        with torch.inference_mode(False), torch.no_grad():
            own |= {name: parameter.data for name, parameter in parameters.items()}
            for name, parameter in parameters.items():
                parameter.data = own[name] + shift[name]
        yield
    finally:
        for name, data in own.items():
            parameters[name].data = data
