"""Processes that share one model out train as one process, leave its files, and can take its place and give it back."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_accumulation import assert_same_run
from test_ranks import finish
from torch import Tensor, nn
from training_runs import file_digests

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders import create_encoder
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.objectives.teacher import follow, slow_copy
from fomo_ssl.training.optim import OptimConfig, build_optimizer
from fomo_ssl.training.ranks import ALONE, full
from fomo_ssl.training.reading import read_metrics
from fomo_ssl.training.sharding import _shares, _whole, check_sharding, shard, with_shards

FSDP = "trainer.strategy=fsdp"
VIT = ["encoder=vit_t_p8", "+encoder.dim=24", "+encoder.depth=4", "+encoder.heads=2"]
MAE = [*VIT, "objective=mae", "objective.loss_mask=false"]


class Taught(nn.Module):
    """A transformer that is to say what its slow copy says of the next sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = create_encoder("vit_t_p8", dim=8, depth=4, heads=2)
        self.odd = nn.Parameter(torch.ones(1, 3))  # fewer rows than ranks
        self.teacher = slow_copy(self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            aim = self.teacher(x.roll(1, 2))
        # Twice through the same blocks before the backward pass, as objectives of two views do.
        return ((self.encoder(x) + self.encoder(x.flip(2)) - aim).square().mean(1) * self.odd.prod()).mean()


def _steps(model: Any, optimizer: torch.optim.Optimizer, steps: range, rank: int, world: int) -> Iterator[float]:
    """Norms of the gradients of some steps, each on this rank's part of the step's samples."""
    for step in steps:
        x = torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        for part in x.chunk(world)[rank].chunk(2):  # two micro-batches
            (model(part) / 2).backward()
        yield float(full(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
        optimizer.step()
        follow(model.teacher, model.encoder, 0.5)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(model, [], OptimConfig(lr=1e-2), 10)[0]


def _rank(rank: int, folder: str) -> None:
    """Four steps with shards: from the beginning, and, recomputing, from one process's state after two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model: Any = Taught()
    if rank == 1:
        nn.init.zeros_(model.encoder.norm.weight)  # the first rank's weights count
    shard(model, torch.device("cpu"))
    optimizer = _optimizer(model)
    norms = list(_steps(model, optimizer, range(4), rank, 2))
    local = sum(p.to_local().numel() for p in model.parameters())
    found = {"norms": norms, "local": local, "model": _whole(model.state_dict(), rank == 0)}
    found["optimizer"] = _whole(optimizer.state_dict(), rank == 0)

    half = torch.load(f"{folder}/half.pt", weights_only=True)
    model = Taught()
    model.load_state_dict(half["model"])
    set_grad_checkpointing(model)
    shard(model, torch.device("cpu"))
    optimizer = _optimizer(model)
    optimizer.load_state_dict(_shares(half["optimizer"], optimizer))
    list(_steps(model, optimizer, range(2, 4), rank, 2))
    found["continued"] = _whole(model.state_dict(), rank == 0)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_shards_step_as_one_process_and_are_written_as_its_state(tmp_path: Path) -> None:
    """With parameters in two groups, whose order is not the model's, a frozen teacher, and uneven shares."""
    model = Taught()
    optimizer = _optimizer(model)
    norms = list(_steps(model, optimizer, range(2), 0, 1))
    half = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    torch.save(half, tmp_path / "half.pt")
    norms += _steps(model, optimizer, range(2, 4), 0, 1)

    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["norms"] == second["norms"] == pytest.approx(norms, rel=1e-4)
    assert first["local"] + second["local"] == sum(p.numel() for p in model.parameters())
    assert first["local"] < 0.6 * (first["local"] + second["local"])
    assert all(value.numel() == 0 for value in second["model"].values())
    for state in (first["model"], first["continued"]):
        assert_same_state(state, model.state_dict())
    assert first["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert_same_state(first["optimizer"]["state"], optimizer.state_dict()["state"])


def assert_same_state(one: Any, other: Any, where: str = "") -> None:
    """The same keys and shapes, and but for the order of sums the same values.

    The bias of an attention's keys has no gradient but rounding, which AdamW makes as large as any: no vectors.
    """
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_state(one[key], other[key], f"{where}.{key}")
        return
    assert type(one) is type(other), where
    assert one.shape == other.shape, where
    if one.ndim != 1:
        assert float((one - other).norm()) <= 1e-3 * float(other.norm()), where


def test_what_does_not_go_with_shards_is_one_line() -> None:
    fsdp = {"strategy": "fsdp"}
    with pytest.raises(ConfigError, match=r"scales no gradients.*bf16-mixed"):
        check_sharding(fsdp, "16-mixed", compiles=False)
    with pytest.raises(ConfigError, match=r"does not compile.*compile=false"):
        check_sharding(fsdp, "32-true", compiles=True)
    check_sharding(fsdp, "bf16-mixed", compiles=False)
    check_sharding({"strategy": "ddp"}, "16-mixed", compiles=True)


def test_one_process_shares_nothing_out() -> None:
    assert with_shards({"strategy": "fsdp", "accelerator": "cpu"}, ALONE) == {"strategy": None, "accelerator": "cpu"}


def half_way(run: Path) -> None:
    """Take the end off a finished run, so that it is continued from its last checkpoint but one."""
    max((run / "checkpoints").iterdir()).unlink()
    record = run / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [
        (MAE, 1),
        ([*VIT, "objective=self_distillation", "objective.prototypes=16"], 1),
        (["objective=moco", "objective.queue=12", "budget.samples=4"], 1),
        (["objective=mae", "objective.loss_mask=false", "accumulate=2"], 1),
        ([*MAE, "precision=bf16-mixed"], 2),
    ],
    ids=["mae", "self_distillation", "moco", "convolutions_accumulated", "bf16"],
)
def test_a_run_in_shards_is_that_of_one_process(store: Path, tmp_path: Path, arguments: list[str], ranks: int) -> None:
    """The curve, the looks, the checkpoints and the files.

    At bf16 it is compared with two copies, because a gradient is rounded once for each part of the batch. The queue of
    moco holds the samples in another order, so one step of it.
    """
    plain, shards = tmp_path / "plain", tmp_path / "shards"
    finish(ranks, store, plain, *arguments)
    finish(2, store, shards, *arguments, FSDP)
    assert_same_run(plain, shards)
    rows = [read_metrics(run / "metrics.csv") for run in (plain, shards)]
    for name in ("held_out/loss", "health/embedding_std"):
        looks = [[row[name] for row in of_run if name in row] for of_run in rows]
        assert looks[1] == pytest.approx(looks[0], rel=1e-2)
    assert looks[0]
    files = [
        {str(file.relative_to(run)) for file in run.rglob("*.*") if "tfevents" not in file.name}
        for run in (plain, shards)
    ]
    assert files[0] == files[1]
    for file in (plain / "checkpoints").iterdir():
        one, other = (torch.load(run / "checkpoints" / file.name, weights_only=True) for run in (plain, shards))
        assert one.keys() == other.keys()
        assert one["state_dict"].keys() == other["state_dict"].keys()
        for state, same in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
            assert_same_state(same["state"], state["state"])
            assert same["param_groups"] == state["param_groups"]


@pytest.mark.slow
def test_a_run_changes_between_one_process_copies_and_shards(store: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finish(1, store, whole, *MAE)
    for name, first, then in (
        ("shards_to_one", (2, FSDP), (1,)),
        ("one_to_shards", (1,), (2, FSDP)),
        ("copies_to_shards", (2,), (2, FSDP)),
    ):
        run = tmp_path / name
        for number, (ranks, *strategy) in enumerate((first, then)):
            finish(ranks, store, run, *MAE, *strategy)
            if number == 0:
                half_way(run)
        assert_same_run(whole, run)


@pytest.mark.slow
def test_a_continued_run_in_shards_ends_in_the_same_bundle(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(2, store, run, *MAE, FSDP)
    before = file_digests(run / "bundle")
    half_way(run)
    finish(2, store, run, *MAE, FSDP)
    assert file_digests(run / "bundle") == before
