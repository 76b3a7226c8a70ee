import csv
import json
from pathlib import Path

import pytest

from fomo_ssl.core.errors import RunError
from fomo_ssl.training.record import write_record
from fomo_ssl.training.sweep import collect, draw, write_table


def add_run(sweep: Path, name: str, encoder: str, parameters: int, samples: int, probe: float | None = None) -> None:
    record = {
        "status": "finished",
        "n_parameters": parameters,
        "samples": samples,
        "samples_per_second": 12.345,
        "loss_last": 0.5,
        "recipe": {"objective": {"name": "mae"}, "encoder": {"name": encoder}},
    }
    write_record(sweep / name, record)
    if probe is not None:
        found = {"target": "sequence (t1, t2)", "metric": "auroc", "value": probe, "low": 0.1, "high": 0.9, "n": 9}
        (sweep / name / "probe.json").write_text(json.dumps(found))


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path, "2_mae_vit_s", "vit_s", 22_000_000, 100, 0.75)
    add_run(tmp_path, "1_mae_vit_t", "vit_t", 5_500_000, 1000, 0.625)
    add_run(tmp_path, "0_mae_vit_t", "vit_t", 5_500_000, 100)
    write_record(tmp_path / "3_mae_vit_s", {"status": "running"})
    write_table(tmp_path)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["0_mae_vit_t", "1_mae_vit_t", "2_mae_vit_s"]
    assert [row["value"] for row in rows] == ["", "0.625", "0.75"]
    printed = capsys.readouterr().out
    assert "auroc of sequence (t1, t2)" in printed
    assert "0.750 [0.100, 0.900]" in printed
    assert "22.00 M" in printed
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    page = (tmp_path / "sweep.md").read_text()
    assert "| mae | vit_s | - | 22.00 M | 100 | 12.3 | 0.5000 | 0.750 [0.100, 0.900] |" in page
    assert page.rstrip().endswith("](sweep.png)")


def test_runs_of_several_lengths_lie_deeper(tmp_path: Path) -> None:
    for samples in (100, 1000):
        add_run(tmp_path / "0_mae_vit_t", f"samples_{samples}", "vit_t", 5_500_000, samples)
    assert [row["run"] for row in collect(tmp_path)] == ["0_mae_vit_t/samples_100", "0_mae_vit_t/samples_1000"]


def test_the_figure_has_the_score_over_samples_and_over_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines, their points and their intervals, as matplotlib was given them."""
    from matplotlib.axes import Axes

    drawn: list[tuple[list[float], list[float], list[list[float]]]] = []
    plain = Axes.errorbar

    def noted(self: Axes, x: list[float], y: list[float], yerr: list[list[float]], **options: object) -> object:
        drawn.append((x, y, yerr))
        return plain(self, x, y, yerr, **options)

    monkeypatch.setattr(Axes, "errorbar", noted)
    for number, (size, samples, score) in enumerate([(5, 100, 0.5), (5, 1000, 0.6), (22, 100, 0.7), (22, 1000, 0.8)]):
        add_run(tmp_path, f"{number}_mae", f"vit_{size}", size * 1_000_000, samples, score)
    draw(collect(tmp_path), tmp_path / "figure.png")
    over_samples, over_parameters = drawn[:2], drawn[2:]
    assert [values for _, values, _ in over_samples] == [[0.5, 0.6], [0.7, 0.8]]
    assert [values for _, values, _ in over_parameters] == [[0.5, 0.7], [0.6, 0.8]]
    assert over_samples[0][0] == pytest.approx([100, 1000], rel=0.05)
    assert over_parameters[0][0] == pytest.approx([5e6, 22e6], rel=0.05)
    assert over_samples[0][2] == [pytest.approx([0.4, 0.5]), pytest.approx([0.4, 0.3])]


def test_an_empty_sweep(tmp_path: Path) -> None:
    assert collect(tmp_path) == []
    with pytest.raises(RunError, match="no run of the sweep was finished"):
        write_table(tmp_path)
