import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from fomo_ssl.core.errors import RunError
from fomo_ssl.training import checkpoint
from fomo_ssl.training.checkpoint import (
    AtomicCheckpointIO,
    checkpoint_files,
    checkpoint_path,
    keep_newest,
    newest_checkpoint,
    random_state,
    samples_of,
    seed_everything,
    set_random_state,
)

STATE = {"weights": torch.arange(4.0), "fomo_ssl": {"samples_seen": 3}}


def test_round_trip(tmp_path: Path) -> None:
    files, path = AtomicCheckpointIO(), checkpoint_path(tmp_path / "new", 3)
    files.save_checkpoint(STATE, path)
    loaded = files.load_checkpoint(path)
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert loaded["fomo_ssl"] == {"samples_seen": 3}
    assert samples_of(path) == 3
    assert list(path.parent.iterdir()) == [path]
    files.remove_checkpoint(path)
    assert checkpoint_files(path.parent) == []


def test_no_code_is_unpickled(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match=r"[Uu]npickl|weights_only"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for samples in (9, 80, 700, 10**9):
        checkpoint_path(tmp_path, samples).touch()
    keep_newest(tmp_path)
    assert [samples_of(file) for file in checkpoint_files(tmp_path)] == [10**9, 700]


def test_newest_that_opens(tmp_path: Path) -> None:
    lines: list[str] = []
    assert newest_checkpoint(tmp_path, lines.append) is None
    for samples in (1, 2, 3):
        AtomicCheckpointIO().save_checkpoint(STATE, checkpoint_path(tmp_path, samples))
    torn = checkpoint_path(tmp_path, 3)
    torn.write_bytes(torn.read_bytes()[:100])
    assert newest_checkpoint(tmp_path, lines.append) == checkpoint_path(tmp_path, 2)
    assert len(lines) == 1
    assert torn.name in lines[0]


def test_full_disk_is_one_error_and_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AtomicCheckpointIO().save_checkpoint(STATE, checkpoint_path(tmp_path, 1))
    before = checkpoint_path(tmp_path, 1).read_bytes()

    @contextlib.contextmanager
    def on_full_disk(path: Path) -> Iterator[IO[bytes]]:
        with Path("/dev/full").open("wb") as file:
            yield file

    monkeypatch.setattr(checkpoint, "atomic_file", on_full_disk)
    with pytest.raises(RunError, match=r"no space.*samples_000000000001\.ckpt is whole.*resume=auto"):
        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(10**6)}, checkpoint_path(tmp_path, 2))
    assert checkpoint_path(tmp_path, 1).read_bytes() == before


def test_other_write_errors_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError, match="folder"):
        AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "folder" / "a.ckpt")


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(())), float(np.random.standard_normal())]


def test_random_states_survive_a_file(tmp_path: Path) -> None:
    seed_everything(1)
    draws()
    AtomicCheckpointIO().save_checkpoint({"random": random_state()}, tmp_path / "a.ckpt")
    expected = [draws(), draws()]
    seed_everything(2)
    set_random_state(AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["random"])
    assert [draws(), draws()] == expected
