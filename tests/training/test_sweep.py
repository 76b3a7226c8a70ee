import csv
import json
from pathlib import Path

import pytest

from fomo_ssl.core.errors import RunError
from fomo_ssl.training.record import write_record
from fomo_ssl.training.sweep import collect, write_table


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


def test_an_empty_sweep(tmp_path: Path) -> None:
    assert collect(tmp_path) == []
    with pytest.raises(RunError, match="no run of the sweep was finished"):
        write_table(tmp_path)
