"""Runs that are killed, interrupted or starved of disk end in the bundle of an undisturbed run, bit for bit."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from training_runs import file_digests, small_run

from fomo_ssl.core.errors import RunError, entry
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.checkpoint import checkpoint_files
from fomo_ssl.training.reading import read_metrics

CONTEXT = multiprocessing.get_context("forkserver")
# Imported once; every run is then a fork away.
CONTEXT.set_forkserver_preload(
    ["fomo_ssl.training.run", "fomo_ssl.objectives", "torch.utils.tensorboard", "matplotlib.figure", "pytest"]
)


Death = tuple[str, Literal["before", "after"]]
"""Die before or after the file or folder of this name is moved into place."""


def _child(store: Path, run: Path, arguments: dict[str, Any], death: Death | None) -> None:
    """A run in a process of its own, which may kill itself."""
    torch.set_num_threads(1)
    if death is not None:
        name, moment = death

        def fatal(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
            def moved(source: Path, target: Path) -> Path:
                fatal_here = Path(target).name == name
                if fatal_here and moment == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = move(source, target)
                if fatal_here:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return moved

        Path.replace, Path.rename = fatal(Path.replace), fatal(Path.rename)
    entry(small_run)(store, run, resume="auto", **arguments)


def launch(store: Path, run: Path, death: Death | None = None, **arguments: Any) -> Any:
    process = CONTEXT.Process(target=_child, args=(store, run, arguments, death))
    process.start()
    return process


def die(store: Path, run: Path, death: Death, **arguments: Any) -> None:
    process = launch(store, run, death, **arguments)
    process.join(240)
    assert process.exitcode == -signal.SIGKILL


def await_checkpoint(process: Any, run: Path) -> None:
    seen = checkpoint_files(run / "checkpoints")
    while process.is_alive() and checkpoint_files(run / "checkpoints") == seen:
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
        {name: value for name, value in row.items() if name not in ("samples_per_second", "data_wait", "memory_gib")}
        for row in read_metrics(run / "metrics.csv")
    ]


@pytest.mark.parametrize(
    ("arguments", "delays"),
    [
        ({"objective": "mae", "encoder": "vit"}, (0.3, 0.1)),
        ({"objective": "hybrid", "encoder": "resenc", "workers": 2}, (0.2,)),
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
    """One run that dies in the save of its record, its log, its first checkpoint, a later one, and its bundle."""
    run = tmp_path / "run"
    arguments = {"objective": "mae", "encoder": "vit"}
    deaths: tuple[Death, ...] = (
        ("run.json", "after"),
        ("metrics.csv", "before"),
        ("samples_000000000004.ckpt", "before"),
        ("samples_000000000012.ckpt", "after"),
        ("bundle", "before"),
        ("bundle", "after"),
    )
    for death in deaths:
        die(store, run, death, **arguments)
    assert finish(store, run, **arguments) == file_digests(undisturbed(**arguments) / "bundle")


def test_the_alarm_counts_on_after_a_kill(store: Path, tmp_path: Path) -> None:
    """Low at 0, 4, 8 samples, killed, low at 12 and 16: the fifth look in a row rings."""
    arguments = {"health": HealthConfig(every=4, crops=2, pictures=0, warmup=0.0, looks=5, min_spread=100.0)}
    run = tmp_path / "run"
    die(store, run, ("samples_000000000008.ckpt", "after"), **arguments)
    process = launch(store, run, **arguments)
    process.join(240)
    assert process.exitcode == 2
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["samples"]) == ("collapsed", 16)


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
    die(store, run, ("samples_000000000012.ckpt", "after"), **arguments)
    newest = checkpoint_files(run / "checkpoints")
    assert len(newest) > 1
    newest[0].write_bytes(newest[0].read_bytes()[:-500])
    small_run(store, run, resume="auto", **arguments)
    assert f"{newest[0].name} is damaged" in capsys.readouterr().err
    assert file_digests(run / "bundle") == file_digests(undisturbed(**arguments) / "bundle")


def test_nothing_opens(store: Path, tmp_path: Path, undisturbed: Callable[..., Path]) -> None:
    run = tmp_path / "run"
    die(store, run, ("samples_000000000004.ckpt", "after"), objective="mae", encoder="vit")
    for file in checkpoint_files(run / "checkpoints"):
        file.write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint opens"):
        small_run(store, run, resume="auto", objective="mae", encoder="vit")


def test_a_killed_loader_process_ends_the_run_in_one_line_and_it_resumes(
    store: Path, tmp_path: Path, undisturbed: Callable[..., Path]
) -> None:
    run = tmp_path / "run"
    arguments = {"objective": "hybrid", "encoder": "resenc", "workers": 2}
    process = launch(store, run, **arguments)
    await_checkpoint(process, run)
    loaders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(loaders) == 2
    os.kill(int(loaders[0]), signal.SIGKILL)
    process.join(240)
    # Torch notices in whatever the run is at, a backward pass too: one line all the same.
    assert process.exitcode == 2
    assert finish(store, run, **arguments) == file_digests(undisturbed(**arguments) / "bundle")
