import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

# Tests ask for equal bits, which only a CPU gives. Set the variable to run them on a GPU; those will fail there.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# The same examples at every run, so that a red suite is the change's doing; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; tests that need it are skipped where it is missing."""
    root = Path(os.environ.get("FOMO_SSL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "fomo_flat").is_dir():
        pytest.skip(f"real scans not found at {root}; set FOMO_SSL_TEST_DATA")
    return root


@pytest.fixture
def memory_kept(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What came of each time that a command asked to keep freed memory."""
    from fomo_ssl.core.memory import keep_freed_memory  # here, or its package were loaded before shapes are checked

    kept: list[bool] = []
    monkeypatch.setattr("fomo_ssl.core.memory.keep_freed_memory", lambda: kept.append(keep_freed_memory()))
    return kept


@pytest.fixture(scope="session")
def own_mounts() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a shell script that mounts what it likes, seen by nobody else; arguments are $1 and on."""
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    allowed = (
        shutil.which("unshare") and subprocess.run([*private, "mount -t tmpfs tmpfs /mnt"], check=False).returncode == 0
    )
    if not allowed:
        pytest.skip("this system lets no user mount a file system of its own")

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*private, script, "sh", *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    return run
