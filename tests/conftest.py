import os
from pathlib import Path

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
