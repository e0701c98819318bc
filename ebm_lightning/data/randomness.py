"""Seeds and uniform numbers by hashing: the same wherever and in whatever order they are asked for."""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = 2**64


def mix(*parts: int) -> int:
    """A 64-bit seed from whole numbers, by SplitMix64 (Steele, Lea & Flood 2014) once for every part.

    z <- S(z + part) with S the generator's increment and its finaliser, so that every input bit moves every output
    bit. That matters because torch's CPU generator reads only the low 32 bits of a seed. The result lies in
    0..2^64 - 1 and depends on the order of the parts.
    """
    z = 0
    for part in parts:
        z = (z + part + _GOLDEN) % _WORD
        z = (z ^ (z >> 30)) * _FACTORS[0] % _WORD
        z = (z ^ (z >> 27)) * _FACTORS[1] % _WORD
        z ^= z >> 31
    return z


def uniform(seed: int, counters: Tensor) -> Tensor:
    """float32 numbers in [0, 1), in the shape of ``counters`` (int64): the top 24 bits of mix(seed, counter).

    A counter gives the same number on every device and in every batch; nothing is stored.
    """
    z = counters + _signed(mix(seed) + _GOLDEN)
    z = (z ^ _shifted(z, 30)) * _signed(_FACTORS[0])
    z = (z ^ _shifted(z, 27)) * _signed(_FACTORS[1])
    # The finaliser's last step, z ^ (z >> 31), leaves the top bits as they are.
    return _shifted(z, 40).to(torch.float32) / 2**24


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word: torch's int64 arithmetic wraps around like the word's."""
    return (word + _WORD // 2) % _WORD - _WORD // 2


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z >> bits with zeros coming in; torch's own shift repeats the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
