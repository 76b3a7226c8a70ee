import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib.image
import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from safetensors.torch import load_file
from training_runs import file_digests, small_run

from fomo_ssl.bundle import load_config, load_encoder, load_seen
from fomo_ssl.core.errors import ConfigError, RunError
from fomo_ssl.core.files import atomic_file
from fomo_ssl.objectives.base import Preview
from fomo_ssl.synthetic.phantoms import phantom
from fomo_ssl.training import fitting, record, source, trainer
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.callbacks.previews import draw_preview
from fomo_ssl.training.loggers import build_loggers, wandb_run
from fomo_ssl.training.reading import read_metrics, read_record
from fomo_ssl.training.record import changes, claim, digest, write_record
from fomo_ssl.training.run import PretrainResult
from fomo_ssl.training.source import DataConfig
from fomo_ssl.training.trainer import check_options, choose_precision

QUICK: dict[str, Any] = {"health": HealthConfig(enabled=False), "data": DataConfig(held_out=0, workers=0)}


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainResult:
    run = tmp_path_factory.mktemp("runs") / "finished"
    return small_run(store, run, objective="hybrid", recipe={"objective": {"name": "hybrid"}})


def test_the_run_directory(finished: PretrainResult) -> None:
    run = finished.run
    assert {p.name for p in run.iterdir()} == {
        "run.json",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
        "previews",
        "bundle",
    }
    record = read_record(run)
    assert record["status"] == "finished"
    assert (record["samples"], record["scans"], record["subjects"], record["held_out_subjects"]) == (24, 8, 4, 1)
    assert record["recipe"]["objective"] == {"name": "hybrid"}
    assert record["recipe_digest"] == digest(record["recipe"])
    assert {"torch", "revision", "device"} <= set(record["circumstances"])
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert len(list((run / "previews").glob("samples_*.png"))) == 2
    assert {p.name for p in (run / "previews").glob("features_*")} == {f"features_{n:09d}.png" for n in (0, 12, 24)}
    assert list((run / "tensorboard").glob("events*"))


def test_the_result(finished: PretrainResult) -> None:
    losses = [row["loss"] for row in read_metrics(finished.run / "metrics.csv") if "loss" in row]
    assert (finished.loss_first, finished.loss_last) == (losses[0], losses[-1])
    assert finished.samples == 24
    assert finished.samples_per_second > 0


def test_the_log(finished: PretrainResult) -> None:
    rows = read_metrics(finished.run / "metrics.csv")
    assert [row["samples"] for row in rows if "loss" in row] == [8, 16, 24]
    assert [row["samples"] for row in rows if "held_out/loss" in row] == [12, 24]
    assert [row["samples"] for row in rows if "health/rankme" in row] == [0, 12, 24]
    assert {"lr", "grad_norm", "samples_per_second", "data_wait", "memory_gib", "mae/loss"} <= set(rows[1])
    assert all(np.isfinite(value) for row in rows for value in row.values())


def test_the_bundle(finished: PretrainResult) -> None:
    config = load_config(finished.bundle)
    assert config.input.sequences == ("flair", "t1")
    assert config.input.crop == (16, 16, 16)
    assert config.training["samples"] == 24
    embedding = load_encoder(finished.bundle).embed(phantom(1, (24, 24, 24)))
    assert torch.isfinite(embedding).all()
    assert finished.n_parameters == sum(p.numel() for p in load_encoder(finished.bundle).parameters())
    kept = load_file(finished.bundle / "pretraining" / "objective.safetensors")
    assert kept
    assert not any(name.startswith("encoder.") for name in kept)


def test_workers_and_log_do_not_change_the_result(store: Path, tmp_path: Path, finished: PretrainResult) -> None:
    changed: dict[str, Any] = {"workers": 1, "log_every": 5, "preview_every": 7, "checkpoint_every": 10}
    changed |= {"health": HealthConfig(enabled=False), "grad_checkpointing": True}
    again = small_run(store, tmp_path / "run", objective="hybrid", recipe={"objective": {"name": "hybrid"}}, **changed)
    assert file_digests(again.bundle) == file_digests(finished.bundle)


def test_a_finished_run_is_returned_at_once(store: Path, finished: PretrainResult) -> None:
    before = file_digests(finished.run)
    again = small_run(store, finished.run, objective="hybrid", recipe={"objective": {"name": "hybrid"}}, resume="auto")
    assert again == finished
    assert file_digests(finished.run) == before


def test_a_full_folder_is_refused(store: Path, finished: PretrainResult) -> None:
    with pytest.raises(RunError, match=r"not empty.*resume=auto"):
        small_run(store, finished.run)


def test_another_recipe_is_refused(store: Path, finished: PretrainResult) -> None:
    recipe = {"objective": {"name": "hybrid"}}
    with pytest.raises(RunError, match="other values of samples"):
        small_run(store, finished.run, objective="hybrid", recipe=recipe, resume="auto", samples=26)
    with pytest.raises(RunError, match=r"other values of .*encoder\.name"):
        small_run(store, finished.run, objective="hybrid", encoder="vit", recipe=recipe, resume="auto")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="no run here"), claim(tmp_path, {}, "auto"):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_claiming(tmp_path: Path) -> None:
    with claim(tmp_path / "a", {"x": 1}, "auto") as found:
        assert found is None
        write_record(tmp_path / "a", {"recipe": {"x": [1, 2]}, "status": "running"})
    with claim(tmp_path / "a", {"x": (1, 2)}, "auto") as found:
        assert found == json.loads((tmp_path / "a" / "run.json").read_text())


def test_a_run_has_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_PATIENCE", 0.3)
    with claim(tmp_path / "a", {"x": 1}, "auto"):
        write_record(tmp_path / "a", {"recipe": {"x": 1}, "status": "running"})
        with pytest.raises(RunError, match="another process is at work"), claim(tmp_path / "a", {"x": 1}, "auto"):
            pass
        with claim(tmp_path / "b", {"x": 1}, "auto"):
            pass
    with claim(tmp_path / "a", {"x": 1}, "auto"):
        pass


@pytest.mark.parametrize(("recipe", "resume"), [({"x": 1}, "never"), ({"x": 2}, "auto")])
def test_a_folder_that_is_refused_stays_as_it_is(tmp_path: Path, recipe: dict[str, int], resume: Any) -> None:
    """Its run may be saving just now: a mistaken second command must not take the file away under it."""
    write_record(tmp_path, {"recipe": {"x": 1}, "status": "running"})
    saving = atomic_file(tmp_path / "checkpoints" / "samples_000000000004.ckpt")
    with saving, pytest.raises(RunError), claim(tmp_path, recipe, resume):
        pass
    assert (tmp_path / "checkpoints" / "samples_000000000004.ckpt").exists()


def test_a_folder_with_nothing_but_what_a_killed_writer_left_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".run.json.partial-7").touch()
    with claim(tmp_path, {}, "never") as found:
        assert found is None
    assert not list(tmp_path.iterdir())


def test_changes_are_named() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": 0}
    assert changes(old, {"a": 1, "b": {"c": (1, 2), "d": 3}, "f": 0}) == ["b.d", "e", "f"]
    assert changes(old, old) == []


def test_wandb_writes_offline(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("a", "b"):  # as the runs of a sweep do, in one process
        small_run(store, tmp_path / name, samples=4, wandb={"project": "p", "offline": True}, **QUICK)
        assert len(list((tmp_path / name).glob(f"wandb/offline-run-*/run-{name}-*.wandb"))) == 1
    assert wandb.run is None


@pytest.mark.parametrize("wrong", [{"entitty": "x"}, {"mode": "sideways"}])
def test_a_setting_that_wandb_does_not_know_is_one_line(store: Path, tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"Weights & Biases refuses.*offline=true"):
        small_run(store, tmp_path / "run", wandb={"project": "p", "offline": True, **wrong}, **QUICK)
    assert wandb.run is None


def test_a_run_of_wandb_that_was_there_before_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="p", mode="offline", dir=tmp_path) as own:
        loggers = build_loggers(tmp_path, 0, {"project": "p", "offline": True})
        with pytest.warns(UserWarning, match="already in progress"), wandb_run(loggers):
            pass
        assert wandb.run is own


def test_runs_of_one_name_are_apart_in_wandb(tmp_path: Path) -> None:
    """As those of several lengths are: every one lies in a folder `samples_<length>`."""

    def wandb_run(run: Path) -> tuple[str | None, str | None]:
        logger = build_loggers(run, 0, {"project": "p", "offline": True})[-1]
        assert isinstance(logger, WandbLogger)
        return logger.version, logger._name

    first, second = wandb_run(tmp_path / "a" / "samples_8"), wandb_run(tmp_path / "b" / "samples_8")
    assert first[0] != second[0]
    assert wandb_run(tmp_path / "b" / ".." / "a" / "samples_8") == first
    assert first[1] == second[1] == "samples_8"


def test_too_few_held_out_scans_for_a_contrast_cost_its_loss_and_not_the_run(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(held_out=1, sequences=("t1",), workers=0)
    small_run(store, tmp_path / "run", objective="hybrid", data=data)
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert not any("held_out/loss" in row for row in rows)
    assert len(list((tmp_path / "run" / "previews").glob("samples_*.png"))) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "held_out/loss" in line]
    assert said == ["no held_out/loss: a contrastive batch of one sample has no negatives (data.held_out)"]


def test_nobody_held_out(store: Path, tmp_path: Path, held_out: Callable[[float], dict[str, object]]) -> None:
    small_run(store, tmp_path / "run", samples=4, **held_out(0.0))
    assert not list((tmp_path / "run" / "previews").glob("samples_*"))


def test_excluded_scans_are_not_trained_on(store: Path, tmp_path: Path) -> None:
    from fomo_ssl.corpus.store import Store

    paths = Store.open(store).index.column("path").to_pylist()
    (tmp_path / "flags.csv").write_text("path\n" + "\n".join(paths[:4]))
    small_run(store, tmp_path / "run", samples=4, data=DataConfig(0.0, exclude=tmp_path / "flags.csv", workers=0))
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["scans"], record["excluded_scans"]) == (6, 4)
    seen = load_seen(tmp_path / "run" / "bundle")
    assert seen is not None
    assert len(seen.subjects) == 3
    with pytest.raises(RunError, match="excluded"):
        small_run(store, tmp_path / "run", samples=4, resume="auto", data=DataConfig(0.0, workers=0))


@pytest.fixture
def held_out() -> Callable[[float], dict[str, object]]:
    return lambda fraction: {"data": DataConfig(held_out=fraction, workers=0)}


def test_trainer_options() -> None:
    assert check_options({"accelerator": "cpu"}) == {"accelerator": "cpu"}
    with pytest.raises(ConfigError, match="Did you mean accelerator"):
        check_options({"acelerator": "cpu"})
    with pytest.raises(ConfigError, match=r"trainer\.max_time cannot be set"):
        check_options({"max_time": "00:01:00:00"})
    with pytest.raises(ConfigError, match=r"trainer\.max_steps cannot be set"):
        check_options({"max_steps": 3})


@pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
def test_a_gpu_that_is_not_wanted_is_left_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: str
) -> None:
    """Locking memory, for one, would open a context on it, for which it may have no room."""
    pinned: list[bool] = []

    def stop(*_: Any, pin_memory: bool, **__: Any) -> Any:
        pinned.append(pin_memory)
        raise StopIteration

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(source, "make_loader", stop)
    monkeypatch.setattr(L.Trainer, "fit", lambda self, module, stream, **_: stream.batches(0))
    monkeypatch.setattr(fitting, "build_trainer", lambda *_, **__: L.Trainer.__new__(L.Trainer))
    with pytest.raises(StopIteration):
        small_run(store, tmp_path / "run", precision="32-true", trainer={"accelerator": accelerator})
    assert pinned == [accelerator == "gpu"]
    assert (read_record(tmp_path / "run")["circumstances"]["device"] == "a GPU") == (accelerator == "gpu")


def test_a_device_that_is_not_there_is_one_line(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Lightning refuses the trainer settings"):
        small_run(store, tmp_path / "run", trainer={"accelerator": "tpu"})


def test_precision() -> None:
    assert choose_precision("auto", "cpu") == "32-true"
    assert choose_precision("bf16-mixed", "cpu") == "bf16-mixed"


@pytest.mark.parametrize("has_bf16", [True, False, None])
def test_bf16_on_a_processor_without_it_is_said_once(
    has_bf16: bool | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "multiplies_bf16", lambda: has_bf16)
    trainer._say_once.cache_clear()
    for _ in range(2):
        choose_precision("bf16-mixed", "cpu")
        choose_precision("32-true", "cpu")
    assert capsys.readouterr().err.count("slower than 32-true on this processor") == (has_bf16 is False)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("bf17", "is none of auto, 32-true"),
        ("bf16", "Did you mean bf16-mixed"),
        ("bf16-true", "Did you mean bf16-mixed"),
        ("64-true", "Did you mean 32-true"),
        ("16-mixed", "needs a GPU"),
    ],
)
def test_a_precision_that_cannot_be_is_one_line_and_takes_no_folder(
    store: Path, tmp_path: Path, precision: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"precision={precision}.*{message}"):
        small_run(store, tmp_path / "run", precision=precision)
    assert not (tmp_path / "run").exists()


def test_bf16_on_cpu(store: Path, tmp_path: Path) -> None:
    result = small_run(store, tmp_path / "run", encoder="vit", precision="bf16-mixed", samples=4)
    assert np.isfinite(result.loss_last)


def test_preview_shows_the_middle_slices(tmp_path: Path) -> None:
    volume = torch.zeros(2, 1, 8, 12, 10)
    volume[:, :, 4, :, 9] = 1.0  # a line in the slice across x: on its upper edge, because the third axis points up
    draw_preview(Preview(volume, volume * 0, volume), tmp_path / "p.png")
    picture = matplotlib.image.imread(tmp_path / "p.png")[..., 0]
    rows, columns = picture.shape
    assert columns == 900
    first, visible = picture[30 : rows // 2, : columns // 9], picture[30 : rows // 2, columns // 3 : columns // 9 * 4]
    bright = np.argwhere(first[5:-5, 10:-10] > 0.9)
    assert bright[:, 0].max() < first.shape[0] / 2
    assert (visible[20:-20, 20:-20] < 0.1).all()
