"""Options that make a training step faster and change its numbers by rounding errors at most."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Acceleration:
    """The acceleration of the negative phase of an :class:`~ebm_lightning.EBM`.

    Args:
        compile: whether the transitions are compiled in training (:func:`~ebm_lightning.utils.fused_ops.compiled`): the
            same numbers up to rounding, from the same random numbers, in less time and memory, after a minute or two
            of compilation for each number of steps. Use it if transitions are differentiated, as in energy-based
            transformers, and for small nets. The objective, validation and protocols are not compiled. "auto" measures
            once whether it is faster (:class:`~ebm_lightning.training.callbacks.auto_compile.AutoCompile`).
        channels_last: whether the weights of convolutions, and so their activations, have the channels last in memory:
            the same numbers up to rounding, in three quarters of the time on a CPU, and the layout that the matrix
            units of a GPU need.
        cuda_graphs: whether the transitions are recorded on a GPU and replayed in training
            (:class:`~ebm_lightning.utils.cuda_graphs.Graphed`): the same numbers. Use it if a net is too small to
            fill the GPU while the next operation is launched. It has no effect on a CPU.
    """

    compile: bool | Literal["auto"] = False
    channels_last: bool = True
    cuda_graphs: bool = False
