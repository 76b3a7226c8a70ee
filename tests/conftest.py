import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; tests that need it are skipped where it is missing."""
    root = Path(os.environ.get("FOMO_SSL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "fomo_flat").is_dir():
        pytest.skip(f"real scans not found at {root}; set FOMO_SSL_TEST_DATA")
    return root
