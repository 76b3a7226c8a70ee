"""Freed memory is kept, in a process of its own: the setting cannot be taken back."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
from fomo_ssl.core.memory import keep_freed_memory
import torch
print(keep_freed_memory())
pages = 48 * 2**20 // resource.getpagesize()
for _ in range(24):  # blocks of one size find their places after a few rounds
    torch.ones(12 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(12 * 2**20)  # 48 MiB, more than the C library would keep
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / pages)
"""


def touched(**environment: str) -> tuple[str, float]:
    """What the function says, and how often each page of a large tensor is mapped again over four of them."""
    # Huge pages would be mapped 512 at a time.
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC", "THP_"))}
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, env=mine | environment, capture_output=True, text=True, check=True)
    said, times = done.stdout.split()
    return said, float(times)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_pages_of_a_large_tensor_are_mapped_once() -> None:
    said, times = touched()
    assert said == "True"
    assert times < 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_choice_of_the_user_stands() -> None:
    said, times = touched(MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False"
    assert times > 3
