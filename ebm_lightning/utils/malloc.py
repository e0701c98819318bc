"""Settings of the C library's memory allocator."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


def keep_freed_memory() -> None:
    """Keep up to 2 GiB of freed memory in the process instead of returning it to the system; on glibc only.

    A training step on a CPU frees and allocates the same megabytes over and over. Memory that was returned costs page
    faults, which take a tenth of the step of a Boltzmann machine.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            libc.mallopt(parameter, 2**31 - 1) or libc.mallopt(parameter, 2**25)  # older versions reject 2 GiB
