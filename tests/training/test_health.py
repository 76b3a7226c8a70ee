"""Looks at a run's embeddings: they change nothing, survive kills, and stop a run that has collapsed."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from training_runs import file_digests, small_run

from fomo_ssl.core.errors import CollapseError, entry
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.store import Store
from fomo_ssl.training.callbacks.alarm import CollapseAlarm
from fomo_ssl.training.callbacks.features import draw_features, map_to_show, principal_colours
from fomo_ssl.training.callbacks.health import Health, HealthConfig
from fomo_ssl.training.checkpoint import checkpoint_files
from fomo_ssl.training.optim import OptimConfig
from fomo_ssl.training.reading import read_metrics
from fomo_ssl.training.source import CropSource, DataConfig

ALWAYS_LOW = HealthConfig(every=4, crops=2, pictures=0, warmup=0.0, looks=4, min_spread=100.0)


@pytest.mark.parametrize(("objective", "encoder"), [("mae", "vit"), ("self_distillation", "resenc")])
def test_a_run_that_is_looked_at_ends_in_the_same_bundle(
    labelled_store: Path, tmp_path: Path, objective: str, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"objective": objective, "encoder": encoder, "samples": 8, "data": DataConfig(held_out=6, workers=0)}
    off = small_run(labelled_store, tmp_path / "off", health=HealthConfig(enabled=False), **arguments)
    on = small_run(labelled_store, tmp_path / "on", health=HealthConfig(every=4, crops=20), **arguments)
    assert file_digests(on.bundle) == file_digests(off.bundle)
    rows = [row for row in read_metrics(on.run / "metrics.csv") if "health/rankme" in row]
    assert [row["samples"] for row in rows] == [0, 4, 8]
    names = {f"probe/{label}_{kind}" for label in ("sequence", "age") for kind in ("linear", "knn", "baseline")}
    assert names | {
        "health/embedding_std",
        "health/relative_std",
        "health/participation_ratio",
        "probe/age_knn_r2",
    } <= set(rows[0])
    assert rows[0] != rows[2]
    assert rows[0]["probe/sequence_baseline"] == 0.5
    assert not any(
        name.startswith(("health/", "probe/")) for row in read_metrics(off.run / "metrics.csv") for name in row
    )
    assert "sequence" in capsys.readouterr().err


def test_collapse_stops_the_run(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """VICReg that only pulls views together: every scan ends in one point."""
    arguments = {
        "objective": "vicreg",
        "encoder": "vit",
        "settings": {"variance": 0.0, "covariance": 0.0, "projector_hidden": 32, "projector_dim": 16},
        "optim": OptimConfig(lr=1e-2, warmup=0.0),
        "samples": 400,
        "checkpoint_every": 1000,
        "preview_every": 1000,
    }
    run = tmp_path / "run"
    health = HealthConfig(every=10, crops=4, pictures=0)
    with pytest.raises(SystemExit) as stop:
        entry(small_run)(store, run, health=health, **arguments)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "collapsed after" in line
    assert "relative_std is" in line
    assert "below 0.1 at 3 looks in a row" in line
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "collapsed"
    assert record["reason"] in line
    assert record["samples"] < 400
    newest = checkpoint_files(run / "checkpoints")[0]
    assert torch.load(newest, weights_only=True)["fomo_ssl"]["samples_seen"] == record["samples"]
    assert not (run / "bundle").exists()
    # Continuing it says the same without a step, unless the alarm is told not to stop.
    with pytest.raises(CollapseError, match=f"after {record['samples']} samples"):
        small_run(store, run, health=health, resume="auto", **arguments)
    assert checkpoint_files(run / "checkpoints")[0] == newest


def test_a_healthy_run_is_left_alone(store: Path, tmp_path: Path) -> None:
    health = HealthConfig(every=2, crops=4, pictures=0, warmup=0.0)
    for encoder in ("vit", "resenc"):
        small_run(store, tmp_path / encoder, objective="mae", encoder=encoder, samples=12, health=health)


def test_one_scan_alone_is_no_collapse(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no spread, as in the usual trial on a single scan."""
    health = HealthConfig(every=2, crops=1, pictures=0, warmup=0.0)
    small_run(store, tmp_path / "run", samples=12, data=DataConfig(held_out=0, workers=0), health=health)
    assert "one scan to look at" in capsys.readouterr().err
    assert not any("health/rankme" in row for row in read_metrics(tmp_path / "run" / "metrics.csv"))


def test_a_first_look_that_overflows_is_not_what_others_are_compared_with(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, looks = Health._embed, []

    def overflows_once(self: Health, *arguments: Any) -> Any:
        embeddings, places = plain(self, *arguments)
        looks.append(len(embeddings))
        return (embeddings * torch.inf if len(looks) == 1 else embeddings), places

    monkeypatch.setattr(Health, "_embed", overflows_once)
    health = HealthConfig(every=2, crops=4, pictures=0, warmup=0.0)
    small_run(store, tmp_path / "run", samples=12, health=health)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if "health/relative_std" in row]
    shares = [row["health/relative_std"] for row in rows]
    assert len(shares) == 7
    assert math.isnan(shares[0])
    assert shares[1] == 1.0
    assert all(0.5 < share < 2.0 for share in shares[1:])


def test_the_alarm_may_only_warn(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(store, tmp_path / "off", health=replace(ALWAYS_LOW, alarm="off"))
    assert "collapsed" not in capsys.readouterr().err
    small_run(store, tmp_path / "warn", health=replace(ALWAYS_LOW, alarm="warn"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: collapsed")]
    assert [line.split()[3] for line in lines] == ["12", "16", "20", "24"]


@pytest.mark.parametrize("health", [HealthConfig(alarm="warn", crops=2), HealthConfig(enabled=False)])
def test_a_collapsed_run_continues_without_the_alarm(store: Path, tmp_path: Path, health: HealthConfig) -> None:
    run = tmp_path / "run"
    with pytest.raises(CollapseError, match="after 12 samples"):
        small_run(store, run, health=ALWAYS_LOW)
    continued = small_run(store, run, health=health, resume="auto")
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    plain = small_run(store, tmp_path / "plain", health=HealthConfig(enabled=False))
    assert file_digests(continued.bundle) == file_digests(plain.bundle)


def test_unreadable_scans_are_left_out_of_looks(labelled_store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(labelled_store, copy)
    data = DataConfig(held_out=1, workers=0)
    source = CropSource.open(copy, data, ViewSpec(), (16, 16, 16), 0)
    # Of the scans looked at, one that the four samples of the run do not ask for.
    asked = {source.sampler.request(i).rows[0] for i in range(4)}
    lost = next(row for row in source.looked_at(20).train.tolist() if row not in asked)
    file = copy / Store.open(copy).index.column("file")[lost].as_py()
    file.write_bytes(b"damaged")
    run = tmp_path / "run"
    result = small_run(copy, run, samples=4, data=data, health=HealthConfig(crops=20, every=2))
    assert file.name in (run / "unreadable.csv").read_text()
    whole = small_run(labelled_store, tmp_path / "whole", samples=4, data=data, health=HealthConfig(enabled=False))
    assert file_digests(result.bundle) == file_digests(whole.bundle)


def make_alarm(looks: int = 3) -> CollapseAlarm:
    return CollapseAlarm({"embedding_std": 0.01}, after_samples=10.0, looks=looks)


def test_the_alarm_counts_low_looks_in_a_row_after_the_warm_up() -> None:
    alarm = make_alarm()
    for samples, value in ((0, 0.0), (5, 0.0), (10, 0.0), (15, 0.0), (20, 0.02), (25, 0.0), (30, math.nan)):
        alarm.see({"embedding_std": value, "rankme": 1.0}, samples)
        assert alarm.rings() is None
    alarm.see({"embedding_std": 0.004}, 35)
    error = alarm.rings()
    assert error is not None
    assert "collapsed after 35 samples: embedding_std is 0.004, below 0.01 at 3 looks in a row" in str(error)
    alarm.see({"embedding_std": 0.5}, 40)
    assert alarm.rings() is None


def test_the_alarm_remembers_and_takes_new_thresholds() -> None:
    alarm = make_alarm()
    for samples in (20, 25, 30):
        alarm.see({"embedding_std": 0.004}, samples)
    state = json.loads(json.dumps(alarm.state_dict()))
    again = make_alarm()
    again.load_state_dict(state)
    assert str(again.rings()) == str(alarm.rings())
    lower = CollapseAlarm({"embedding_std": 0.001}, 10.0, 3)
    lower.load_state_dict(state)
    assert lower.rings() is None
    fresh = make_alarm()
    fresh.load_state_dict(make_alarm().state_dict())
    assert fresh.rings() is None


def test_colours_are_the_principal_components() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q[:3]
    strength = torch.randn(2, 6, 6, 6, 3, generator=generator) * torch.tensor([5.0, 2.0, 1.0])
    features = (strength @ axes + 7.0).movedim(-1, 1)
    colours = principal_colours(features)
    assert colours.shape == (2, 6, 6, 6, 3)
    assert float(colours.min()) == 0.0
    assert float(colours.max()) == 1.0
    for channel in range(3):
        correlation = np.corrcoef(strength[..., channel].flatten(), colours[..., channel].flatten())[0, 1]
        assert abs(correlation) > 0.9
    assert torch.equal(principal_colours(features), colours)
    assert torch.isfinite(principal_colours(torch.ones(1, 2, 4, 4, 4))).all()


def test_the_map_shown_is_the_last_fine_one() -> None:
    maps = [torch.zeros(1, 2, side, side, side) for side in (32, 16, 8, 4, 2)]
    assert map_to_show(maps).shape[-1] == 8
    assert map_to_show(maps[3:]).shape[-1] == 4


def test_the_picture_shows_where_features_differ(tmp_path: Path) -> None:
    features = torch.zeros(1, 4, 6, 6, 6)
    features[:, 0, :, :, 3:] = 1.0  # the upper half: third axis
    draw_features(torch.rand(1, 1, 24, 24, 24), features, tmp_path / "f.png")
    picture = matplotlib.image.imread(tmp_path / "f.png")
    rows, columns = picture.shape[:2]
    across_x = picture[40 : rows - 10, columns // 2 + 15 : columns * 4 // 6 - 15, 0]
    upper, lower = across_x[: len(across_x) // 3], across_x[-len(across_x) // 3 :]
    assert abs(float(upper.mean()) - float(lower.mean())) > 0.8
