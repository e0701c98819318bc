"""CUDA graphs: the kernels of a negative phase, recorded once and launched as one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebm_lightning.core import EnergyModel, Info, Sampler, State, buffers_kept

MAX_GRAPHS = 32
"""The number of graphs that are kept; a phase that would need another one runs without a graph."""

ChainFunction = Callable[..., tuple[State, Info]]
"""A function with the arguments and results of :func:`ebm_lightning.core.run_chain`."""


@dataclass(frozen=True)
class RecordedGraph:
    """A graph with its input and output tensors."""

    graph: torch.cuda.CUDAGraph
    start: State
    end: State
    info: Info


class Graphed:
    """A chain function that is recorded as a CUDA graph at its first call and replayed at later calls.

    Launching a kernel takes 5 to 10 us of a CPU, and a step of Langevin dynamics on a small net launches hundreds that
    take less than that on a GPU. The results are those of the function itself, from the same random numbers. The graph
    reads the weights at their address in memory, including updates by an optimizer.

    It is recorded for each number of steps, each shape of the state, each precision, each mode of the model and each
    address of its weights, up to :data:`MAX_GRAPHS` times. Calls with a gradient, and on a CPU, run without a graph.
    The function must not wait for the device, and must do the same at every call, which an
    :class:`~ebm_lightning.core.AdaptiveSampler` does not.

    Args:
        run_chain: the function.

    Raises:
        ValueError: at a call, if the function cannot be recorded.
    """

    def __init__(self, run_chain: ChainFunction) -> None:
        self.run_chain = run_chain
        self._recorded: dict[tuple[object, ...], RecordedGraph] = {}
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
            return self.run_chain(sampler, model, state, steps, backprop, with_info=with_info)
        key = (id(sampler), id(model), steps, with_info, *_graph_key(model, state))
        if key not in self._recorded:
            if len(self._recorded) == MAX_GRAPHS:
                return self.run_chain(sampler, model, state, steps, with_info=with_info)
            self._recorded[key] = self._record(sampler, model, state, steps, with_info, device)
        found = self._recorded[key]
        for name, tensor in found.start.items():
            tensor.copy_(state[name])
        found.graph.replay()
        # Clamped variables are returned as they are; the others are copied out of the graph, which overwrites them.
        end = {
            name: state[name] if tensor is found.start.get(name) else tensor.clone()
            for name, tensor in found.end.items()
        }
        return end, {name: tensor.clone() for name, tensor in found.info.items()}

    def _record(
        self, sampler: Sampler, model: EnergyModel, state: State, steps: int, with_info: bool, device: torch.device
    ) -> RecordedGraph:
        start = {name: tensor.detach().clone() for name, tensor in state.items()}
        rng_state = torch.cuda.get_rng_state(device)
        side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side_stream), buffers_kept(model):
            # Warm-up: libraries choose kernels, and compilers compile.
            self.run_chain(sampler, model, start, steps, with_info=with_info)
            with _refuse_synchronization(sampler, model):  # before recording, whose failure leaves the device unusable
                self.run_chain(sampler, model, start, steps, with_info=with_info)
        torch.cuda.current_stream(device).wait_stream(side_stream)
        torch.cuda.set_rng_state(rng_state, device)
        graph, self._pool = torch.cuda.CUDAGraph(), self._pool or torch.cuda.graph_pool_handle()
        torch.clear_autocast_cache()  # weights must be cast within the graph, or it would read the present casts
        # Other threads (NCCL's, a loader's) may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            end, info = self.run_chain(sampler, model, start, steps, with_info=with_info)
        torch.clear_autocast_cache()
        return RecordedGraph(graph, start, end, info)


@contextmanager
def _refuse_synchronization(sampler: Sampler, model: EnergyModel) -> Iterator[None]:
    """Raise ValueError with an explanation if the CPU waits for the device, which no graph can record."""
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


def _graph_key(model: EnergyModel, state: State) -> tuple[object, ...]:
    """The part of a graph's key apart from the arguments: mode, shapes, addresses of the weights, and precision."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    return (
        model.training,
        *((name, tensor.shape, tensor.dtype) for name, tensor in state.items()),
        *(tensor.data_ptr() for tensor in tensors),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.get_float32_matmul_precision(),
    )
