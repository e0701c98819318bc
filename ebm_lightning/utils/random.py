"""Random streams: seeds and numbers by hashing, states of all generators, and isolated draws."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = 2**64


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word: torch's int64 arithmetic wraps around like the word's."""
    return (word + _WORD // 2) % _WORD - _WORD // 2


INCREMENT = _signed(_GOLDEN)
"""The increment of SplitMix64 from one word to the next, as an int64."""


def mix(*parts: int) -> int:
    """A 64-bit seed from integers, by SplitMix64 (Steele, Lea & Flood 2014) once for every part.

    z <- S(z + part) with S the generator's increment and its finalizer, so that every output bit depends on every input
    bit. That matters because torch's CPU generator reads only the low 32 bits of a seed. The result is in 0..2^64 - 1
    and depends on the order of the parts.
    """
    z = 0
    for part in parts:
        z = (z + part + _GOLDEN) % _WORD
        z = (z ^ (z >> 30)) * _FACTORS[0] % _WORD
        z = (z ^ (z >> 27)) * _FACTORS[1] % _WORD
        z ^= z >> 31
    return z


def keyed(seed: int, counters: Tensor) -> Tensor:
    """The words, in the shape of ``counters`` (int64), whose hash is :func:`uniform`."""
    return counters + _signed(mix(seed) + _GOLDEN)


def uniform(seed: int, counters: Tensor) -> Tensor:
    """float32 numbers in [0, 1), in the shape of ``counters`` (int64): the top 24 bits of mix(seed, counter).

    A counter gives the same number on every device and in every batch; no state is stored.
    """
    return hashed(keyed(seed, counters))


def hashed(z: Tensor) -> Tensor:
    """SplitMix64's finalizer of each word (int64), as float32 in [0, 1): its top 24 bits."""
    z = (z ^ _shifted(z, 30)) * _signed(_FACTORS[0])
    z = (z ^ _shifted(z, 27)) * _signed(_FACTORS[1])
    # The finalizer's last step, z ^ (z >> 31), leaves the top bits as they are.
    return _shifted(z, 40).to(torch.float32) / 2**24


def seed_all(seed: int) -> None:
    """Seed torch (every device), Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the global stream is what other libraries draw from)


def capture() -> dict[str, Any]:
    """The states of all generators, as tensors and plain numbers: safe for ``torch.load(weights_only=True)``."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(gauss)),
    }


def restore(state: dict[str, Any]) -> None:
    """Set all generators to the states of :func:`capture`."""
    keys, position, has_gauss, gauss = state["numpy"]
    torch.set_rng_state(state["torch"])
    for device_state in state["cuda"]:
        torch.cuda.set_rng_state(device_state)
    random.setstate(state["python"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002


def drawn_since(state: dict[str, Any]) -> bool:
    """Whether torch has drawn a random number, on the CPU or the current device, since :func:`capture`."""
    now = capture()
    pairs = [(now["torch"], state["torch"]), *zip(now["cuda"], state["cuda"], strict=True)]
    return not all(torch.equal(*pair) for pair in pairs)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Draw from streams seeded by ``seed`` inside the context; the streams outside are not affected."""
    before = capture()
    seed_all(seed)
    try:
        yield
    finally:
        restore(before)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z >> bits with zeros from the left; torch's own shift repeats the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
