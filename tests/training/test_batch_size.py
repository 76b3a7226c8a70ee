"""The largest batch that fits is found by real steps, is part of the record, and is not searched again."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import ENCODERS

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives.base import Objective, ObjectiveOutput
from fomo_ssl.objectives.mae import MAE
from fomo_ssl.pretrain import main
from fomo_ssl.training import batch_size
from fomo_ssl.training.batch_size import find_batch_size, search
from fomo_ssl.training.ranks import ALONE, join_ranks
from fomo_ssl.training.reading import read_record
from fomo_ssl.training.run import RunConfig
from fomo_ssl.training.source import DataConfig

CONFIG = RunConfig(
    samples=24, batch_size=1, crop=(16, 16, 16), data=DataConfig(held_out=1, workers=0), trainer={"accelerator": "cpu"}
)
SMALL = ["encoder=resenc_t", "+encoder.channels=[4,8]", "+encoder.blocks=[1,1]", "crop=16", "budget.samples=8",
         "data.workers=0", "data.held_out=1", "trainer=cpu", "health.enabled=false", "resume=auto"]  # fmt: skip


class Small(MAE):
    """Holds at most `room` samples, and tells how many steps of each size were taken."""

    def __init__(self, room: int, taken: list[int]) -> None:
        super().__init__(create_encoder(**ENCODERS["resenc"]))
        self.room, self.taken = room, taken

    def forward(self, views: Views, step: int) -> ObjectiveOutput:
        if len(views) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(views)}")
        self.taken.append(len(views))
        return super().forward(views, step)


CPU = torch.device("cpu")


@pytest.mark.parametrize(("room", "samples", "found"), [(5, 100, 4), (8, 100, 8), (100, 9, 8)])
def test_doubling_stops_at_the_first_size_that_does_not_fit(
    store: Path, tmp_path: Path, room: int, samples: int, found: int
) -> None:
    taken: list[int] = []

    def build() -> tuple[Objective, Augmenter]:
        return Small(room, taken), Augmenter("all")

    run = tmp_path / "run"
    assert search(build, store, run, replace(CONFIG, samples=samples), ALONE, CPU) == found
    assert taken == [size for size in (2, 4, 8) if size <= found for _ in range(batch_size.STEPS)]
    assert not run.exists(), "the run's folder stays as it is"


@pytest.mark.parametrize(("largest", "raises"), [(4, False), (1, True)])
def test_words_of_cudnn_mean_that_memory_is_full_where_less_has_worked(
    store: Path, tmp_path: Path, largest: int, raises: bool
) -> None:
    class Silent(Small):
        def forward(self, views: Views, step: int) -> ObjectiveOutput:
            if len(views) > largest:
                raise RuntimeError("GET was unable to find an engine to execute this computation")
            return super().forward(views, step)

    def build() -> tuple[Objective, Augmenter]:
        return Silent(100, []), Augmenter("all")

    if raises:
        with pytest.raises(RuntimeError, match="unable to find an engine"):
            search(build, store, tmp_path, CONFIG, ALONE, CPU)
    else:
        assert search(build, store, tmp_path, CONFIG, ALONE, CPU) == largest


def test_other_errors_are_not_taken_for_memory(store: Path, tmp_path: Path) -> None:
    class Broken(Small):
        def forward(self, views: Views, step: int) -> ObjectiveOutput:
            if len(views) > 2:
                raise RuntimeError("CUDA error: device-side assert triggered")
            return super().forward(views, step)

    def build() -> tuple[Objective, Augmenter]:
        return Broken(100, []), Augmenter("all")

    with pytest.raises(RuntimeError, match="device-side assert"):
        search(build, store, tmp_path, CONFIG, ALONE, CPU)


def test_micro_batches_are_what_has_to_fit(store: Path, tmp_path: Path) -> None:
    def build() -> tuple[Objective, Augmenter]:
        return Small(5, []), Augmenter("all")

    assert search(build, store, tmp_path, replace(CONFIG, accumulate=3), ALONE, CPU) == 12


def test_where_nothing_fits_one_line_says_so(store: Path, tmp_path: Path) -> None:
    def build() -> tuple[Objective, Augmenter]:
        return Small(1, []), Augmenter("all")

    with pytest.raises(ConfigError, match="not even 2 crops fit"):
        search(build, store, tmp_path, CONFIG, ALONE, CPU)


@pytest.mark.slow
def test_ranks_agree_on_the_smallest(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [*command, str(store), str(tmp_path / "run")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "8"], "four samples on each of two ranks, though one of them has room for nine"


def one_rank(store: Path, run: Path) -> None:
    ranks = join_ranks(CONFIG.trainer)

    def build() -> tuple[Objective, Augmenter]:
        return Small(4 if ranks.first else 9, []), Augmenter("all")

    print(search(build, store, run, CONFIG, ranks, CPU), flush=True)


def test_a_cpu_wants_a_number(store: Path, tmp_path: Path) -> None:
    def build() -> tuple[Objective, Augmenter]:
        raise AssertionError("nothing is tried")

    with pytest.raises(ConfigError, match=r"needs a GPU.*Give a number") as error:
        find_batch_size(build, store, tmp_path, CONFIG, ALONE)
    assert "\n" not in str(error.value)


def test_a_run_that_is_continued_keeps_its_number(store: Path, tmp_path: Path) -> None:
    """A CPU could not search: that it goes on shows that nothing was searched."""
    run = tmp_path / "run"
    arguments = [f"store={store}", f"run={run}", *SMALL]
    main([*arguments, "batch_size=4"])
    (run / "run.json").write_text((run / "run.json").read_text().replace('"finished"', '"running"'))
    for checkpoint in (run / "checkpoints").glob("*"):
        checkpoint.unlink()
    main([*arguments, "batch_size=auto"])
    record = read_record(run)
    assert (record["status"], record["recipe"]["batch_size"]) == ("finished", 4)


def test_lengths_share_the_number_of_the_first(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lengths = ["optim=constant_then_decay", "budget.lengths=[8,16]"]
    arguments = [f"store={store}", f"run={run}", *SMALL, *lengths]
    main([*arguments, "batch_size=2"])
    main([*arguments, "batch_size=auto"])
    assert {read_record(folder)["recipe"]["batch_size"] for folder in run.glob("samples_*")} == {2}


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]), Path(sys.argv[2]))
