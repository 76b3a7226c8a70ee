"""Signals stop a run with a whole checkpoint, whenever they come."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from training_runs import small_run

from fomo_ssl.training.checkpoint import checkpoint_files, samples_of
from fomo_ssl.training.ranks import Ranks


def test_a_signal_during_the_exchange_between_ranks_is_not_lost(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when this process has said that it has none: it is told at the end of the next batch."""
    exchange, calls = Ranks.largest, []

    def interrupted(ranks: Ranks, values: Sequence[int], device: torch.device) -> list[int]:
        agreed = exchange(ranks, values, device)
        calls.append(agreed)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return agreed

    monkeypatch.setattr(Ranks, "largest", interrupted)
    with pytest.raises(SystemExit) as stop:
        small_run(store, tmp_path / "run")
    assert stop.value.code == 128 + signal.SIGTERM
    assert samples_of(checkpoint_files(tmp_path / "run" / "checkpoints")[0]) == 8
