"""What becomes of memory that a process has freed."""

import ctypes
import os
import platform

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt(3)
_CHOSEN_BY_THE_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation instead of handing it back to the system, from now on.

    The C library hands back every block above 32 MiB, and a network in 3D frees and asks for such feature maps all the
    time on a CPU: the system then has to map and clear each of their pages again. The results are the same; the process
    stays as large as it has been.

    Forked processes do the same, others have to call it themselves. An allocator that was chosen by the environment
    (`MALLOC_MMAP_MAX_` and the like, `GLIBC_TUNABLES`) is left as it is.

    Returns:
        Whether memory is kept: False with a C library other than glibc or another choice of the user.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _CHOSEN_BY_THE_USER):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))
