"""Two processes with half the batch each train as one process with the whole batch, and can be continued."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_accumulation import assert_same_run
from training_runs import file_digests

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.training.ranks import ALONE, join_ranks
from fomo_ssl.training.reading import read_record

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENCODER = ["encoder=resenc_t", "+encoder.channels=[4,8]", "+encoder.blocks=[1,1]"]
SMALL = ["crop=16", "batch_size=4", "budget.samples=24", "data.workers=0", "data.held_out=1", "trainer=cpu",
         "log_every=1", "checkpoint_every=8", "preview_every=12", "health.every=12", "health.crops=2",
         "resume=auto"]  # fmt: skip


def start(ranks: int, store: Path, run: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable] if ranks == 1 else [*TORCHRUN, f"--nproc-per-node={ranks}"]
    encoder = [] if any(word.startswith("encoder=") for word in arguments) else ENCODER
    full = [*command, "-m", "fomo_ssl.pretrain", f"store={store}", f"run={run}", *encoder, *SMALL, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(full, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(ranks: int, store: Path, run: Path, *arguments: str) -> str:
    process = start(ranks, store, run, *arguments)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["objective=mae", "objective.loss_mask=false"],
        ["objective=contrastive"],
        ["objective=moco", "objective.queue=12"],
        ["objective=mae", "objective.loss_mask=false", "accumulate=2"],
    ],
    ids=["mae", "contrastive", "moco", "mae_accumulated"],
)
def test_two_ranks_train_as_one_process_and_resume(store: Path, tmp_path: Path, arguments: list[str]) -> None:
    """Contrast gathers its negatives; the queue of moco holds other rows of the batch first, so one step of it."""
    if "objective=moco" in arguments:
        arguments = [*arguments, "budget.samples=4"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(1, store, alone, *arguments)
    output = finish(2, store, together, *arguments)
    assert output.count("samples at") == 1, "only the first process speaks"
    assert read_record(together)["circumstances"]["ranks"] == 2
    assert_same_run(alone, together)
    pictures = [{str(file.relative_to(run)) for file in run.rglob("*.png")} for run in (alone, together)]
    assert pictures[0] == pictures[1] != set()

    # From its last checkpoint but one: the same bytes again.
    before = file_digests(together / "bundle")
    max((together / "checkpoints").iterdir()).unlink()
    record = together / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    finish(2, store, together, *arguments)
    assert file_digests(together / "bundle") == before


@pytest.mark.slow
@pytest.mark.parametrize(("looks", "every", "samples"), [(2, 4, 4), (3, 12, 24)], ids=["early", "last_look"])
def test_a_collapse_ends_all_ranks_with_one_line(
    store: Path, tmp_path: Path, looks: int, every: int, samples: int
) -> None:
    alarm = ("health.min_spread=100", "health.warmup=0", f"health.looks={looks}", f"health.every={every}")
    process = start(2, store, tmp_path / "run", *alarm)
    errors = process.communicate()[1]
    assert process.returncode != 0
    assert errors.count("fomo_ssl: collapsed after") == 1
    assert "Traceback" not in errors.split("torch/distributed")[0]
    assert read_record(tmp_path / "run")["status"] == "collapsed"
    assert max((tmp_path / "run" / "checkpoints").iterdir()).name == f"samples_{samples:012d}.ckpt"


@pytest.mark.slow
def test_the_first_rank_alone_ends_a_sweep(store: Path, tmp_path: Path) -> None:
    output = finish(2, store, tmp_path / "sweep", "--multirun", "objective=mae,denoising", "health.enabled=false")
    assert output.count("samples at") == 2
    assert output.count("downstream not measured") == 1


@pytest.mark.slow
def test_a_signal_saves_and_the_run_ends_in_the_same_bundle(store: Path, tmp_path: Path) -> None:
    arguments = ("budget.samples=400", "health.enabled=false", "preview_every=400")
    finish(2, store, tmp_path / "whole", *arguments)
    run = tmp_path / "run"
    process = start(2, store, run, *arguments)
    while process.poll() is None and not list(run.glob("checkpoints/*.ckpt")):
        time.sleep(0.01)
    process.terminate()
    assert "continue with resume=auto" in process.communicate()[1]
    assert read_record(run)["status"] == "running"
    finish(2, store, run, *arguments)
    assert file_digests(run / "bundle") == file_digests(tmp_path / "whole" / "bundle")


def test_more_devices_than_processes_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"asks for 2 devices.*torchrun --nproc-per-node=2"):
        join_ranks({"accelerator": "cpu", "devices": 2})
    with pytest.raises(ConfigError, match="strategy=deepspeed is not supported"):
        join_ranks({"strategy": "deepspeed"})
    with pytest.raises(ConfigError, match=r"devices=0 is no whole number"):
        join_ranks({"devices": 0})
    with pytest.raises(ConfigError, match=r"devices=auto is no whole number"):
        join_ranks({"devices": "auto"})


def test_a_chosen_gpu_is_the_current_one_and_a_missing_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert join_ranks({"devices": [1]}) == ALONE
    assert join_ranks({"devices": 1}) == ALONE
    assert join_ranks({"devices": [1], "accelerator": "cpu"}) == ALONE
    assert taken == [1]
    with pytest.raises(ConfigError, match=r"GPU 2, but sees 2, .*--gres=gpu:N"):
        join_ranks({"devices": [2]})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({}, r"has 4 tasks, but srun did not start this process.*srun python"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, r"4 tasks were started.*--ntasks-per-node"),
    ],
    ids=["a batch script that calls python", "srun --ntasks=4"],
)
def test_a_slurm_job_that_would_wait_for_nobody_is_one_line(
    monkeypatch: pytest.MonkeyPatch, step: dict[str, str], message: str
) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"} | step).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        join_ranks({"accelerator": "cpu"})


def test_a_process_started_alone_is_the_first_of_one() -> None:
    assert join_ranks({"accelerator": "cpu", "devices": [0]}) == ALONE
    assert ALONE.first
    assert ALONE.on_first(lambda: 3) == 3
    assert ALONE.collect("a") == ["a"]
