"""What a server that lives long asks of the C library: large buffers given back, few arenas for its threads."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MB = 1024 * 1024
_SETTINGS = {_M_MMAP_THRESHOLD: 4 * _MB, _M_TRIM_THRESHOLD: 16 * _MB, _M_ARENA_MAX: 4}


def keep_memory_small() -> bool:
    """Makes glibc give a photo's buffers back to the system once they are freed; False where there is no glibc.

    Left to itself, it raises the size from which a buffer has pages of its own to that of the largest one that was
    freed, up to 32 MB: Pillow's blocks of 16 MB then come from heaps, one or more for each thread, that keep them.
    It is the process that is changed: for those who serve, not for a library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS.items())
