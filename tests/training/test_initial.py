"""Pretraining that begins from a bundle, by the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fomo_ssl.bundle import load_seen
from fomo_ssl.pretrain import main

QUICK = ["crop=16", "batch_size=2", "data.workers=0", "health.enabled=false", "preview_every=1000", "optim.warmup=0"]
SMALL = ["encoder=resenc_t", "encoder.channels=[4,8]", "encoder.blocks=[1,1]"]


def pretrained(store: Path, run: Path, *words: str) -> Path:
    main([f"store={store}", f"run={run}", "budget.samples=4", *QUICK, *SMALL, *words])
    return run / "bundle"


@pytest.fixture(scope="module")
def first(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(store, tmp_path_factory.mktemp("init") / "first", "data.held_out=2")


def tensors(bundle: Path, name: str = "encoder.safetensors") -> dict[str, torch.Tensor]:
    return load_file(bundle / name)


def test_the_same_objective_goes_on(store: Path, first: Path, tmp_path: Path, capsys) -> None:
    again = pretrained(store, tmp_path / "run", f"init={first}", "optim.lr=0", "optim.weight_decay=0")
    assert "init: encoder and objective" in capsys.readouterr().err
    for name in ("encoder.safetensors", "pretraining/objective.safetensors"):
        before, after = tensors(first, name), tensors(again, name)
        assert all(torch.equal(before[key], after[key]) for key in before.keys() | after.keys())


def test_another_objective_takes_the_encoder_alone(store: Path, first: Path, tmp_path: Path, capsys) -> None:
    words = ("objective=simmim", "optim.lr=0", "optim.weight_decay=0")
    again = pretrained(store, tmp_path / "run", f"init={first}", *words)
    assert "init: encoder alone, the objective begins anew" in capsys.readouterr().err
    assert all(torch.equal(value, tensors(again)[key]) for key, value in tensors(first).items())


def test_the_teacher_begins_as_the_student(store: Path, first: Path, tmp_path: Path) -> None:
    words = ("objective=moco", "optim.lr=0", "optim.weight_decay=0")
    again = pretrained(store, tmp_path / "run", f"init={first}", *words)
    kept = tensors(again, "pretraining/objective.safetensors")
    for key, value in tensors(first).items():
        assert torch.equal(kept[f"teacher.{key}"], value)


def test_whom_both_runs_saw(store: Path, first: Path, tmp_path: Path) -> None:
    again = pretrained(store, tmp_path / "run", f"init={first}", "data.held_out=2", "seed=3")
    alone = pretrained(store, tmp_path / "alone", "data.held_out=2", "seed=3")
    both, before, own = (load_seen(bundle) for bundle in (again, first, alone))
    assert both is not None and before is not None and own is not None  # noqa: PT018
    assert set(both.subjects.tolist()) == {*before.subjects.tolist(), *own.subjects.tolist()}
    assert both.complete
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["init"] == str(first.resolve())
    assert record["recipe"]["init"]


def test_weights_that_do_not_say_leave_it_open(store: Path, first: Path, tmp_path: Path) -> None:
    imported = tmp_path / "imported"
    imported.mkdir()
    for name in ("config.json", "encoder.safetensors"):
        (imported / name).write_bytes((first / name).read_bytes())
    seen = load_seen(pretrained(store, tmp_path / "run", f"init={imported}"))
    assert seen is not None
    assert not seen.complete
    assert len(seen.subjects) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["encoder=vit_t_p8"], "init holds resenc_t, the run asks for vit_t_p8. Give encoder=resenc_t"),
        (["encoder.channels=[4,16]"], "Give encoder.channels=[4,8]"),
    ],
)
def test_another_encoder_is_one_line(store: Path, first: Path, tmp_path: Path, capsys, words, said) -> None:
    encoder = words if words[0].startswith("encoder=") else [*SMALL, *words]
    with pytest.raises(SystemExit) as stop:
        main([f"store={store}", f"run={tmp_path / 'run'}", "budget.samples=4", *QUICK, *encoder, f"init={first}"])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_its_own_checkpoint_and_not_from_init(store: Path, first: Path, tmp_path: Path) -> None:
    bundle = pretrained(store, tmp_path / "run", f"init={first}", "resume=auto")
    before = (bundle / "encoder.safetensors").read_bytes()
    assert pretrained(store, tmp_path / "run", f"init={first}", "resume=auto") == bundle
    assert (bundle / "encoder.safetensors").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((first / "config.json").read_bytes())
    changed = {key: value + 1.0 for key, value in tensors(first).items()}
    save_file(changed, other / "encoder.safetensors")
    with pytest.raises(SystemExit):
        pretrained(store, tmp_path / "run", f"init={other}", "resume=auto")
    assert np.array_equal(np.frombuffer((bundle / "encoder.safetensors").read_bytes()), np.frombuffer(before))
