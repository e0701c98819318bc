"""The base of wrappers: a sampler with the variables, bounds and state of an inner sampler."""

from ebm_lightning.core import AdaptiveSampler, Sampler, State


class WrappedSampler(Sampler):
    """A kernel that wraps another one, its field ``sampler``. Subclasses define ``step``."""

    sampler: Sampler

    def augment_state(self, state: State) -> State:
        return self.sampler.augment_state(state)

    def energy_input(self, state: State) -> State:
        return self.sampler.energy_input(state)

    @property
    def stateful(self) -> bool:
        return self.sampler.stateful

    def state_dict(self) -> State:
        return self.sampler.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.sampler.load_state_dict(state)


def check_not_adaptive(outer: Sampler, inner: Sampler) -> None:
    """Raise ValueError if the inner sampler is adaptive: only the outermost one is updated with the model."""
    if isinstance(inner, AdaptiveSampler):
        raise ValueError(
            f"{type(outer).__name__}({type(inner).__name__}): an adaptive sampler has to be the outermost one, since "
            f"only that is updated with the model: put {type(outer).__name__} inside of it, or choose one of the two"
        )
