from pathlib import Path

import pytest
from run_maker import RunMaker, few_resamples


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    few_resamples(monkeypatch)


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    return RunMaker(tmp_path / "runs")
