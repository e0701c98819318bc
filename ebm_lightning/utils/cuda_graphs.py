"""CUDA graphs: what a negative phase launches on a GPU, kernel by kernel, recorded once and launched as one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, Info, Sampler, State, buffers_kept

MOST = 32
"""Graphs that are kept; a phase of a form that would need another one runs as it is."""

Walk = Callable[..., tuple[State, Info]]
"""What takes the arguments of :func:`ebm_lightning.core.run_chain` and returns what it returns."""


@dataclass(frozen=True)
class Recorded:
    """A graph, the tensors that it reads, and those that it writes."""

    graph: torch.cuda.CUDAGraph
    start: State
    end: State
    info: Info


class Graphed:
    """A walk that is recorded as a CUDA graph when it is first taken and replayed from then on.

    Launching a kernel takes a CPU 5 to 10 us, and a step of Langevin dynamics on a small net launches hundreds that
    take a GPU less than that each. The numbers are those of the walk itself, from the same random numbers. The graph
    reads the weights where they are, so that it sees what an optimizer did to them.

    It is recorded for each number of steps, each shape of the state, each precision, each mode of the model and each
    place of its weights, up to :data:`MOST` times. What is differentiated and what lies on a CPU is walked as it is. A
    walk must not wait for the device, and must do the same whenever it is called: an
    :class:`~ebm_lightning.core.AdaptiveSampler` does not.

    Args:
        walk: what is recorded.

    Raises:
        ValueError: at a call, where the walk cannot be recorded.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._recorded: dict[tuple[object, ...], Recorded] = {}
        self._pool: Any = None

    def __call__(
        self,
        sampler: Sampler,
        model: EnergyModel,
        state: State,
        steps: int,
        backprop: int = 0,
        with_info: bool = True,
    ) -> tuple[State, Info]:
        device = next(iter(state.values())).device
        if backprop or device.type != "cuda":
            return self.walk(sampler, model, state, steps, backprop, with_info=with_info)
        key = (id(sampler), id(model), steps, with_info, *_form(model, state))
        if key not in self._recorded:
            if len(self._recorded) == MOST:
                return self.walk(sampler, model, state, steps, with_info=with_info)
            self._recorded[key] = self._record(sampler, model, state, steps, with_info, device)
        found = self._recorded[key]
        for name, tensor in found.start.items():
            tensor.copy_(state[name])
        found.graph.replay()
        # A clamped variable comes back as the object that it was; what moved is the graph's, and is overwritten.
        end = {
            name: state[name] if tensor is found.start.get(name) else tensor.clone()
            for name, tensor in found.end.items()
        }
        return end, {name: tensor.clone() for name, tensor in found.info.items()}

    def _record(
        self, sampler: Sampler, model: EnergyModel, state: State, steps: int, with_info: bool, device: torch.device
    ) -> Recorded:
        start = {name: tensor.detach().clone() for name, tensor in state.items()}
        drawn = torch.cuda.get_rng_state(device)
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside), buffers_kept(model):
            self.walk(sampler, model, start, steps, with_info=with_info)  # libraries choose kernels, compilers compile
            with _waits_refused(sampler, model):  # here, since a recording that fails leaves the device unusable
                self.walk(sampler, model, start, steps, with_info=with_info)
        torch.cuda.current_stream(device).wait_stream(beside)
        torch.cuda.set_rng_state(drawn, device)
        graph, self._pool = torch.cuda.CUDAGraph(), self._pool or torch.cuda.graph_pool_handle()
        torch.clear_autocast_cache()  # weights are cast within the graph, or it would read those of now for ever
        # Other threads (NCCL's, a loader's) may go on asking the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            end, info = self.walk(sampler, model, start, steps, with_info=with_info)
        torch.clear_autocast_cache()
        return Recorded(graph, start, end, info)


@contextmanager
def _waits_refused(sampler: Sampler, model: EnergyModel) -> Iterator[None]:
    """Says in words that the processor waits for the device, which no graph can record."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as fault:
        raise ValueError(
            f"cuda_graphs: transitions of {type(sampler).__name__} on {type(model).__name__} cannot be recorded "
            f"({str(fault).splitlines()[0]}): they must not wait for the device; leave cuda_graphs out"
        ) from fault
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _form(model: EnergyModel, state: State) -> tuple[object, ...]:
    """What a graph was made for beside its arguments: mode, shapes, places of the weights, and precision."""
    places: list[Tensor] = [*model.parameters(), *model.buffers()]
    return (
        model.training,
        *((name, tensor.shape, tensor.dtype) for name, tensor in state.items()),
        *(tensor.data_ptr() for tensor in places),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.get_float32_matmul_precision(),
    )
