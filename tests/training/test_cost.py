"""Operations are counted right and once, leave no trace, and become MFU where the device's peak is known."""

import copy
from pathlib import Path

import pytest
import torch
from test_accumulation import BARE
from training_runs import ENCODERS, small_run

from fomo_ssl.core.types import Views
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput
from fomo_ssl.training.callbacks.cost import Cost, flops_per_sample
from fomo_ssl.training.peaks import peak_flops
from fomo_ssl.training.reading import read_metrics, read_record


def views_of(n: int, views: int = 1) -> Views:
    images = [torch.rand(n, 1, 16, 16, 16) for _ in range(views)]
    classes = torch.zeros(views, n, dtype=torch.int64)
    return Views(images, images, torch.arange(n), torch.ones(n, 3), classes, torch.ones(n, dtype=torch.bool))


class OneProduct(Objective):
    """A product with a 7 x 5 matrix of each sample's first seven voxels; the encoder takes no part."""

    def __init__(self) -> None:
        super().__init__(
            create_encoder(**ENCODERS["resenc"]), create_objective("mae", create_encoder("resenc_t")).views
        )
        self.layer = torch.nn.Linear(7, 5, bias=False)

    def encode_views(self, views: Views, step: int) -> list[Encoded]:
        return [Encoded(shown=views.images[0], embedding=views.images[0].flatten(1)[:, :7])]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        return ObjectiveOutput(self.layer(encoded[0].embedding).sum())


def test_the_count_by_hand() -> None:
    """Forward, and backward to the weights; none to the voxels, which want no gradient."""
    assert flops_per_sample(OneProduct(), views_of(3), 0) == 2 * 7 * 5 * 2


@pytest.mark.parametrize("name", ["mae", "moco", "self_distillation"])
def test_counting_leaves_no_trace(name: str) -> None:
    torch.manual_seed(0)
    objective = create_objective(name, create_encoder(**ENCODERS["resenc"])).train()
    views = views_of(2, objective.views.n)
    before, random = copy.deepcopy(objective.state_dict()), torch.get_rng_state()
    counted = flops_per_sample(objective, views, 0)
    assert counted is not None
    assert counted > 1e5
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert not getattr(objective, "_new", [])


def test_peaks() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16-mixed") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16-mixed") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "16-mixed") == 312e12
    assert peak_flops("NVIDIA L4", "bf16-true") == 121e12
    assert peak_flops("NVIDIA L40S", "bf16-mixed") == 362e12
    assert peak_flops("NVIDIA RTX A1000", "bf16-mixed") is None
    assert peak_flops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16-mixed") is None
    assert peak_flops("NVIDIA H100 80GB HBM3", "32-true") is None


def test_mfu_is_operations_a_second_over_the_peak_of_all_devices() -> None:
    cost = Cost("bf16-mixed")
    assert set(cost.numbers(10.0)) == {"memory_gib"}
    cost.flops_per_sample, cost._peak = 3e12, 2 * 989e12
    assert cost.numbers(100.0)["mfu"] == pytest.approx(3e12 * 100 / (2 * 989e12))


def test_a_run_records_its_cost_and_profile(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fomo_ssl.training.callbacks import cost

    calls: list[float | None] = []

    def counted(*arguments: object) -> float | None:
        calls.append(flops_per_sample(*arguments))  # type: ignore[arg-type]
        return calls[-1]

    monkeypatch.setattr(cost, "flops_per_sample", counted)
    small_run(store, tmp_path / "run", samples=20, log_every=2, profile=True, **BARE)
    assert len(calls) == 1
    assert read_record(tmp_path / "run")["flops_per_sample"] == calls[0]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert all(0.0 < row["memory_gib"] < 64.0 and "mfu" not in row for row in rows)
    assert " GiB" in capsys.readouterr().err
    assert "aten::convolution" in (tmp_path / "run" / "profile" / "table.txt").read_text()
    assert (tmp_path / "run" / "profile" / "trace.json").stat().st_size > 10_000
