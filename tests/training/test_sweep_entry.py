"""Sweeps from the command line: what is missing is done, what is finished is left, and several lengths share a run."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import file_digests

from fomo_ssl.pretrain import main
from fomo_ssl.training.checkpoint import checkpoint_files

SMALL = ["+encoder.channels=[4,8]", "+encoder.blocks=[1,1]", "crop=16", "batch_size=2", "data.workers=0",
         "data.held_out=1", "trainer=cpu", "log_every=1", "checkpoint_every=2", "health.enabled=false"]  # fmt: skip


def rows_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_same_command_does_what_is_missing(store: Path, tmp_path: Path, steps: list[int]) -> None:
    sweep = tmp_path / "sweep"
    command = [f"store={store}", f"run={sweep}", "--multirun", "+sweep=objective_x_size", "budget.samples=8"]
    command += ["objective=mae,denoising", "encoder=resenc_t", "probe.enabled=true", *SMALL]
    main(command)
    assert steps == [0, 1, 2, 3] * 2
    runs = sorted(path.parent for path in sweep.glob("*/run.json"))
    assert [run.name for run in runs] == ["0_mae_resenc_t", "1_denoising_resenc_t"]
    before = {run.name: file_digests(run / "bundle") for run in runs}
    table = (sweep / "sweep.csv").read_text()
    probed = (runs[0] / "probe.json").stat().st_mtime_ns

    # As a kill in the second run leaves it: two steps from its end, without bundle and table.
    shutil.rmtree(runs[1] / "bundle")
    (runs[1] / "probe.json").unlink()
    checkpoint_files(runs[1] / "checkpoints")[0].unlink()
    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps(record | {"status": "running"}))
    for name in ("sweep.csv", "sweep.md", "sweep.png"):
        (sweep / name).unlink()
    steps.clear()
    main(command)
    assert steps == [3]
    assert {run.name: file_digests(run / "bundle") for run in runs} == before
    assert (runs[0] / "probe.json").stat().st_mtime_ns == probed
    drop = "samples_per_second"
    assert [{**row, drop: ""} for row in rows_of(sweep)] == [
        {**row, drop: ""} for row in csv.DictReader(table.splitlines())
    ]
    assert "![loss and downstream" in (sweep / "sweep.md").read_text()


def test_one_run_a_size_gives_all_lengths(store: Path, tmp_path: Path, steps: list[int]) -> None:
    sweep = tmp_path / "sweep"
    main([f"store={store}", f"run={sweep}", "--multirun", "+sweep=constant_then_decay", "encoder=resenc_t",
          "budget.lengths=[8,20]", "probe.enabled=false", "+encoder.channels=[4,8],[4,12]", *SMALL[1:]])  # fmt: skip
    # Ten steps, and one of the four of the shorter length, for each size.
    assert steps == [*range(10), 3] * 2
    assert {row["run"] for row in rows_of(sweep)} == {
        f"{number}_mae_resenc_t/samples_{samples}" for number in (0, 1) for samples in (8, 20)
    }
    assert len(list(sweep.glob("*/samples_*/report.html"))) == 4


def test_several_lengths_of_one_run_end_with_a_table(store: Path, tmp_path: Path, steps: list[int]) -> None:
    run = tmp_path / "run"
    main([f"store={store}", f"run={run}", "encoder=resenc_t", "optim=constant_then_decay", "budget.lengths=[8,20]",
          *SMALL])  # fmt: skip
    assert len(steps) == 11
    assert [row["samples"] for row in rows_of(run)] == ["8", "20"]


def test_lengths_want_a_constant_rate(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override, message in (
        ("budget.lengths=[8,20]", "Give optim=constant_then_decay"),
        ("budget.lengths=8", "budget.lengths=8 is no list"),
        ("budget.lengths=[a]", "budget.lengths=a"),
    ):
        with pytest.raises(SystemExit):
            main([f"store={store}", f"run={tmp_path / 'run'}", "encoder=resenc_t", override, *SMALL])
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_launchers_end_in_the_same_table(store: Path, tmp_path: Path, launcher: str) -> None:
    def sweep(name: str, *words: str) -> list[dict[str, str]]:
        command = [f"store={store}", f"run={tmp_path / name}", "--multirun", "encoder=resenc_t", *SMALL, "resume=auto"]
        done = subprocess.run(
            [sys.executable, "-m", "fomo_ssl.pretrain", *command, "budget.samples=4,8", *words],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [{**row, "samples_per_second": ""} for row in rows_of(tmp_path / name)]

    assert sweep("other", f"hydra/launcher={launcher}") == sweep("own")
