"""Every length from one run's own states, and each as good as a run of its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_accumulation import BARE
from training_runs import ENCODERS, file_digests, small_run

from fomo_ssl.core.errors import ConfigError, RunError
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import Objective
from fomo_ssl.training.checkpoint import seed_everything
from fomo_ssl.training.lengths import branch_step, plan, pretrain_lengths
from fomo_ssl.training.optim import OptimConfig, rate_factor
from fomo_ssl.training.reading import read_metrics, read_record
from fomo_ssl.training.run import RunConfig

CONSTANT = OptimConfig(schedule="constant", tail=0.25, warmup=0.25, lr=1e-3)
CONFIG = RunConfig(samples=1, batch_size=2, crop=(16, 16, 16), optim=CONSTANT, checkpoint_every=4, log_every=4,
                   trainer={"accelerator": "cpu"}, **BARE)  # fmt: skip


def build() -> tuple[Objective, Augmenter]:
    seed_everything(0)
    return create_objective("moco", create_encoder(**ENCODERS["resenc"]), queue=12), Augmenter("all")


def test_all_lengths_share_their_rates_up_to_their_tails() -> None:
    planned = plan(replace(CONFIG, batch_size=1), [100, 1000, 300])
    assert [one.samples for one in planned] == [1000, 300, 100]
    rates = [[rate_factor(step, one.steps, one.optim) for step in range(one.steps)] for one in planned]
    for one, own in zip(planned, rates, strict=True):
        shared = branch_step(one) + 1
        assert own[:shared] == rates[0][:shared]
        assert own[shared] < 1.0
    assert [branch_step(one) for one in planned] == [750, 225, 75]
    assert rates[2][24] == 1.0
    assert rates[2][23] < 1.0


@pytest.mark.parametrize(
    ("optim", "lengths", "message"),
    [
        (replace(CONSTANT, schedule="cosine"), [2, 8], "needs a constant rate"),
        (CONSTANT, [7, 8], "of one length"),
        (replace(CONSTANT, warmup=0.9), [20, 40], "tail before the warm-up ends"),
    ],
)
def test_lengths_that_cannot_share_are_refused(optim: OptimConfig, lengths: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(replace(CONFIG, optim=optim), lengths)


def test_one_run_gives_the_bundle_of_every_length(store: Path, tmp_path: Path, steps: list[int]) -> None:
    """Lengths of 12, 6 and 4 steps: the bundles of three runs of their own, from 12 + 2 + 1 steps."""
    recipe = {"objective": {"name": "moco", "queue": 12}}
    results = pretrain_lengths(
        [8, 24, 12], store=store, run=tmp_path / "lengths", build=build, config=CONFIG, recipe=recipe
    )
    assert [result.samples for result in results] == [24, 12, 8]
    assert steps == [*range(12), 4, 5, 3]
    assert read_record(results[1].run)["branched_from"] == {"run": "samples_24", "samples": 8}
    assert read_record(results[2].run)["branched_from"] == {"run": "samples_24", "samples": 6}
    for result, one in zip(results, plan(CONFIG, [8, 24, 12]), strict=True):
        own = tmp_path / f"own_{one.samples}"
        settings = {"samples": one.samples, "optim": one.optim, "log_every": 4, "settings": {"queue": 12}}
        small_run(store, own, objective="moco", recipe=recipe, **settings, **BARE)
        assert file_digests(result.bundle) == file_digests(own / "bundle")
        losses = [[row["loss"] for row in read_metrics(run / "metrics.csv")] for run in (result.run, own)]
        assert losses[0] == losses[1]


def test_an_interrupted_tail_is_continued_and_a_late_length_refused(store: Path, tmp_path: Path) -> None:
    again = {"store": store, "run": tmp_path / "run", "build": build, "config": CONFIG, "resume": "auto"}
    whole = pretrain_lengths([24, 12], **again)
    before = file_digests(whole[1].bundle)
    record = whole[1].run / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running"}))
    for file in (whole[1].run / "checkpoints").glob("*.ckpt"):
        file.unlink()  # killed before its first checkpoint
    assert file_digests(pretrain_lengths([24, 12], **again)[1].bundle) == before
    with pytest.raises(RunError, match="kept no state at 14 samples"):
        pretrain_lengths([24, 12, 18], **again)
