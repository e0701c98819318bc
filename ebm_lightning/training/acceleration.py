"""What makes a training step faster without changing its numbers but for rounding."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Acceleration:
    """How the negative phase of an :class:`~ebm_lightning.EBM` is accelerated.

    Args:
        compile: whether the transitions are compiled in training (:func:`~ebm_lightning.utils.fused_ops.compiled`): the
            same numbers up to rounding, from the same random numbers, in less time and memory, after a minute or two
            of compilation for each number of steps. It pays if transitions are differentiated, as in energy-based
            transformers, and for small nets. The objective, validation and protocols are not compiled. "auto" measures
            once whether it pays (:class:`~ebm_lightning.training.callbacks.auto_compile.AutoCompile`).
        channels_last: whether convolutions keep their weights, and so what passes between them, with the channels last
            in memory: the same numbers up to rounding, in three quarters of the time on a CPU, and the layout that the
            matrix units of a GPU need.
        cuda_graphs: whether the transitions are recorded on a GPU and replayed in training
            (:class:`~ebm_lightning.utils.cuda_graphs.Graphed`): the same numbers. It pays if a net is too small to fill
            the GPU while the next operation is launched. On a CPU nothing changes.
    """

    compile: bool | Literal["auto"] = False
    channels_last: bool = True
    cuda_graphs: bool = False
