"""Fast weights: chains that mix because the energy rises behind them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ebm_lightning.core import AdaptiveSampler, EnergyModel, Info, Sampler, State


class FastWeights(AdaptiveSampler):
    """Fast PCD: the chains move under theta + fast, where fast <- decay fast - rate dloss/dtheta once in every step.

    Learning itself drives persistent chains out of the modes they sit in; fast weights do so at a rate of their own,
    which stays high while theta's falls to 0, and they forget. theta and they see the same gradient, dloss/dtheta
    before it is clipped. theta alone is the model: energies and log-likelihoods never see the fast weights. The chains
    do, and so do the pictures drawn during a run; a process that loads a trained model, `ebm sample` or `ebm test`, has
    no fast weights and draws as the bare sampler does.
    Info: that of the inner sampler. Tieleman & Hinton (2009).

    Args:
        sampler: the kernel; its free variables and bounds become this sampler's.
        rate: of the fast weights, >= 0 and constant, of the order of the initial learning rate.
        decay: what a step leaves of the fast weights, in [0, 1); the paper's is 19/20.

    Raises:
        ValueError: where ``rate`` < 0, ``decay`` lies outside [0, 1), or the inner sampler is adaptive too; at a step,
            where grad mode is on, for the weights under which the chains move are not in the graph.
    """

    def __init__(self, sampler: Sampler, *, rate: float, decay: float = 0.95) -> None:
        if not (rate >= 0 and 0 <= decay < 1):
            raise ValueError(f"FastWeights(rate={rate}, decay={decay}): expected rate >= 0 and decay in [0, 1)")
        if isinstance(sampler, AdaptiveSampler):
            raise ValueError(f"FastWeights({type(sampler).__name__}): only one sampler can follow the model; choose")
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
                "FastWeights cannot move chains inside an autograd graph, for their weights are not the model's: "
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
    """The model with ``shift`` added to its parameters, by name; afterwards they are the same tensors as before."""
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
