"""Runs that are killed, interrupted or starved of disk end in the bundle of an undisturbed run, bit for bit."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import file_digests, small_run

from fomo_ssl.core.errors import RunError, entry
from fomo_ssl.training.checkpoint import checkpoint_files
from fomo_ssl.training.loggers import read_metrics

CONTEXT = multiprocessing.get_context("forkserver")
# Imported once; every run is then a fork away.
CONTEXT.set_forkserver_preload(
    ["fomo_ssl.training.run", "fomo_ssl.objectives", "torch.utils.tensorboard", "matplotlib.figure", "pytest"]
)


def _child(store: Path, run: Path, arguments: dict[str, Any], die_at_sync: int | None) -> None:
    """A run in a process of its own that may kill itself in its n-th flush to disk, which every whole file has."""
    torch.set_num_threads(1)
    if die_at_sync is not None:
        flushes = iter(range(die_at_sync))
        sync = os.fsync

        def fatal_sync(descriptor: int) -> None:
            if next(flushes, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(descriptor)

        os.fsync = fatal_sync
    entry(small_run)(store, run, resume="auto", **arguments)


def launch(store: Path, run: Path, die_at_sync: int | None = None, **arguments: Any) -> Any:
    process = CONTEXT.Process(target=_child, args=(store, run, arguments, die_at_sync))
    process.start()
    return process


def await_checkpoint(process: Any, run: Path) -> None:
    while process.is_alive() and not checkpoint_files(run / "checkpoints"):
        time.sleep(0.005)


def finish(store: Path, run: Path, **arguments: Any) -> dict[str, str]:
    """Resume until the end; digests of the bundle's files."""
    process = launch(store, run, **arguments)
    process.join(240)
    assert process.exitcode == 0
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert not list(run.glob(".*"))
    assert not list((run / "checkpoints").glob(".*"))
    return file_digests(run / "bundle")


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run directory of an undisturbed run, by its arguments."""
    done: dict[str, Path] = {}

    def get(**arguments: Any) -> Path:
        key = hashlib.sha256(repr(arguments).encode()).hexdigest()[:8]
        if key not in done:
            done[key] = tmp_path_factory.mktemp("undisturbed") / key
            finish(store, done[key], **arguments)
        return done[key]

    return get


def without_clocks(run: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if name not in ("samples_per_second", "data_wait")}
        for row in read_metrics(run / "metrics.csv")
    ]


@pytest.mark.parametrize(
    ("arguments", "delays"),
    [
        ({"objective": "mae", "encoder": "vit"}, (0.9, 0.5, 0.7)),
        ({"objective": "hybrid", "encoder": "resenc", "workers": 2}, (0.6, 1.1)),
    ],
    ids=["mae_vit", "hybrid_resenc_workers"],
)
def test_killed_anywhere(
    store: Path, tmp_path: Path, undisturbed: Callable[..., Path], arguments: dict[str, Any], delays: tuple[float, ...]
) -> None:
    run = tmp_path / "run"
    for delay in delays:
        process = launch(store, run, **arguments)
        await_checkpoint(process, run)
        time.sleep(delay)
        process.kill()
        process.join()
    expected = undisturbed(**arguments)
    assert finish(store, run, **arguments) == file_digests(expected / "bundle")
    assert without_clocks(run) == without_clocks(expected)


def test_killed_in_every_kind_of_save(store: Path, tmp_path: Path, undisturbed: Callable[..., Path]) -> None:
    """The record, the first and later checkpoints, before and after renames, and the bundle: each dies in a flush."""
    run = tmp_path / "run"
    arguments = {"objective": "mae", "encoder": "vit"}
    for die_at_sync in (0, 1, 5, 6, 9, 14):
        process = launch(store, run, die_at_sync, **arguments)
        process.join(240)
        assert process.exitcode in (-signal.SIGKILL, 0)
    assert finish(store, run, **arguments) == file_digests(undisturbed(**arguments) / "bundle")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_stop(
    store: Path, tmp_path: Path, undisturbed: Callable[..., Path], number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    arguments = {"objective": "mae", "encoder": "vit"}
    process = launch(store, run, samples=24, **arguments)
    await_checkpoint(process, run)
    os.kill(process.pid, number)
    process.join(240)
    assert process.exitcode == code
    assert finish(store, run, samples=24, **arguments) == file_digests(undisturbed(**arguments) / "bundle")


def test_a_damaged_checkpoint_is_passed_over(
    store: Path, tmp_path: Path, undisturbed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"objective": "mae", "encoder": "vit"}
    run = tmp_path / "run"
    process = launch(store, run, 9, **arguments)
    process.join(240)
    newest = checkpoint_files(run / "checkpoints")
    assert len(newest) == 2
    newest[0].write_bytes(newest[0].read_bytes()[:-500])
    small_run(store, run, resume="auto", **arguments)
    assert f"{newest[0].name} is damaged" in capsys.readouterr().err
    assert file_digests(run / "bundle") == file_digests(undisturbed(**arguments) / "bundle")


def test_nothing_opens(store: Path, tmp_path: Path, undisturbed: Callable[..., Path]) -> None:
    run = tmp_path / "run"
    process = launch(store, run, 9, objective="mae", encoder="vit")
    process.join(240)
    for file in checkpoint_files(run / "checkpoints"):
        file.write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint opens"):
        small_run(store, run, resume="auto", objective="mae", encoder="vit")
