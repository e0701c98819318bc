"""Random streams: mixed seeds, whole generator states, and draws that leave the caller's stream alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """A 63-bit seed from integers, well spread in its low 32 bits (splitmix64; Steele et al. 2014).

    torch's CPU generator reads the low 32 bits of a seed alone, so neighbouring seeds must differ there.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def seed_all(seed: int) -> None:
    """Seeds torch (every device), Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the global stream is what other libraries draw from)


def capture() -> dict[str, Any]:
    """The states of all generators, as tensors and plain Python numbers (safe for ``torch.load(weights_only=True)``)."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
    }


def restore(state: dict[str, Any]) -> None:
    """Puts all generators into the states of :func:`capture`."""
    keys, position, has_gauss, gauss = state["numpy"]
    torch.set_rng_state(state["torch"])
    for device_state in state["cuda"]:
        torch.cuda.set_rng_state(device_state)
    random.setstate(state["python"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Draws inside come from streams seeded by ``seed``; the streams outside are as if nothing had been drawn."""
    before = capture()
    seed_all(seed)
    try:
        yield
    finally:
        restore(before)
