"""Scans that vanish under a run: reported, replaced, counted, and a stop where they are too many."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from training_runs import file_digests, small_run

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.types import CropBatch, ViewSpec
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.loader import UnreadableScan
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.source import CropSource, DataConfig
from fomo_ssl.training.unreadable import UnreadableScans, unreadable_files


@pytest.fixture
def broken(store: Path, tmp_path: Path) -> Path:
    """A store in which one scan is cut short and one is gone."""
    path = tmp_path / "store"
    shutil.copytree(store, path)
    files = [path / name.as_py() for name in Store.open(path).index.column("file")]
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].unlink()
    return path


def test_a_run_goes_on_without_the_scans_it_cannot_read(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in (
        ("alone", DataConfig(held_out=0.0, workers=0)),
        ("workers", DataConfig(held_out=0.0, workers=2)),
        ("queue", DataConfig(held_out=0.0, workers=2, transport="queue")),
    ):
        small_run(broken, tmp_path / name, data=data)
    assert file_digests(tmp_path / "alone/bundle") == file_digests(tmp_path / "workers/bundle")
    assert file_digests(tmp_path / "alone/bundle") == file_digests(tmp_path / "queue/bundle")
    assert json.loads((tmp_path / "alone/run.json").read_text())["unreadable_scans"] == 2
    rows = list(csv.DictReader((tmp_path / "alone/unreadable.csv").read_text().splitlines()))
    assert [Path(row["file"]).is_file() for row in rows].count(False) == 1
    assert all(0 <= int(row["sample"]) < 24 and row["error"] for row in rows)
    said = capsys.readouterr().err.splitlines()
    for row in rows:
        assert sum(line.startswith(row["file"]) for line in said) == 3, "once a run"


def test_too_many_end_the_run(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"2 scans cannot be read, listed in .*unreadable\.csv; at most 1") as caught:
        small_run(broken, tmp_path / "run", data=DataConfig(held_out=0.0, workers=0, max_unreadable=1))
    assert "max_unreadable" in (caught.value.way_out or "")
    # More patience is no other recipe.
    small_run(broken, tmp_path / "run", resume="auto", data=DataConfig(held_out=0.0, workers=0, max_unreadable=2))


def test_what_an_earlier_process_met_counts(tmp_path: Path) -> None:
    def met(name: str) -> UnreadableScan:
        return UnreadableScan(7, StoreError("scan file missing", where=tmp_path / name))

    UnreadableScans(tmp_path, 1)(met("a"))
    again = UnreadableScans(tmp_path, 1)
    again(met("a"))
    assert len(again) == 1
    with pytest.raises(StoreError, match="2 scans"):
        again(met("b"))


def test_a_scan_that_several_processes_met_counts_once(tmp_path: Path) -> None:
    for rank, names in ((0, "ab"), (1, "b"), (3, "c")):
        for name in names:
            UnreadableScans(tmp_path, 9, rank)(UnreadableScan(7, StoreError("scan file missing", where=name)))
    assert unreadable_files(tmp_path) == {"a", "b", "c"}


@pytest.mark.parametrize("workers", [0, 2])
def test_scans_that_go_missing_under_a_run_are_replaced(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """After the second step one scan is deleted and one cut short; the run goes on to its end without them."""
    shutil.copytree(store, tmp_path / "store")
    files = [tmp_path / "store" / name.as_py() for name in Store.open(tmp_path / "store").index.column("file")]
    step = PretrainModule.training_step

    def breaking(module: PretrainModule, batch: CropBatch, batch_idx: int) -> torch.Tensor:
        if batch_idx == 2:
            files[0].unlink()
            files[1].write_bytes(files[1].read_bytes()[:50])
        return step(module, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", breaking)
    small_run(tmp_path / "store", tmp_path / "run", data=DataConfig(held_out=0.0, workers=workers))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "finished"
    rows = list(csv.DictReader((tmp_path / "run/unreadable.csv").read_text().splitlines()))
    assert record["unreadable_scans"] == len(rows) > 0
    assert {row["file"] for row in rows} <= {str(file) for file in files[:2]}
    assert (tmp_path / "run/bundle/config.json").is_file()


@pytest.mark.parametrize("sequences", [None, ("t1",)], ids=["one of two is lost", "the only one is lost"])
def test_a_held_out_scan_that_cannot_be_read_does_not_keep_the_run_from_starting(
    store: Path, tmp_path: Path, sequences: tuple[str, ...] | None
) -> None:
    shutil.copytree(store, tmp_path / "store")
    data = DataConfig(held_out=1, sequences=sequences, workers=0)
    source = CropSource.open(tmp_path / "store", data, ViewSpec(), (16, 16, 16), 0)
    file = tmp_path / "store" / source.store.index.column("file")[source.split.held_out[0]].as_py()
    file.write_bytes(b"damaged")
    run = tmp_path / "run"
    small_run(tmp_path / "store", run, data=data, samples=4, health=HealthConfig(enabled=False))
    rows = csv.DictReader((run / "unreadable.csv").read_text().splitlines())
    assert [Path(row["file"]) for row in rows] == [file]
    assert len(list(run.glob("previews/*"))) == (1 if sequences is None else 0)
    small_run(store, tmp_path / "whole", data=data, samples=4, health=HealthConfig(enabled=False))
    assert file_digests(run / "bundle") == file_digests(tmp_path / "whole" / "bundle")
