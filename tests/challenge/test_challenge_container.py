"""What runs inside the container, here in this process."""

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fomo_ssl.challenge import container
from fomo_ssl.challenge.contract import TASKS, check_model, choose
from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.inference import predict_case
from fomo_ssl.downstream.models import TaskModel, load_model, save_model
from fomo_ssl.encoders import create_encoder


def scans_of(data: Path, task: str) -> dict[str, Path]:
    return {path.name.removesuffix(".nii.gz"): path for path in (data / task).glob("preprocessed/sub_1/ses_1/*")}


def run(bundles: Path, task: str, output: Path, scans: dict[str, Path], *more: str) -> None:
    flags = [word for name, path in scans.items() for word in (f"--{name}", str(path))]
    container.main(task, bundles / task, [*flags, "--output", str(output), "--device", "cpu", *more])


@pytest.mark.parametrize("task", ["infarct", "age"])
def test_numbers_are_those_of_predict(
    task: str, bundles: Path, data: Path, tmp_path: Path, memory_kept: list[bool]
) -> None:
    scans = scans_of(data, task)
    run(bundles, task, tmp_path / "sub_1.txt", scans)
    assert float((tmp_path / "sub_1.txt").read_text()) == pytest.approx(
        predict_case(bundles / task / "00", scans), rel=1e-6
    )
    assert len(memory_kept) == 1


def test_a_mask_is_that_of_predict_on_the_grid_of_the_input(bundles: Path, data: Path, tmp_path: Path) -> None:
    scans = scans_of(data, "meningioma")
    run(bundles, "meningioma", tmp_path / "sub_1.nii.gz", scans)
    got, given = nib.load(tmp_path / "sub_1.nii.gz"), nib.load(scans["flair"])
    np.testing.assert_array_equal(got.affine, given.affine)
    assert np.issubdtype(got.get_data_dtype(), np.integer)
    # The case has t2s, the model was trained on swi.
    expected = predict_case(bundles / "meningioma/00", {**scans, "swi": scans["t2s"]})
    np.testing.assert_array_equal(np.asarray(got.dataobj), expected)


def test_an_empty_mask_becomes_the_likeliest_voxel(
    bundles: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says background everywhere, here more surely than there. It is not asked again: a case has 120 s."""
    model = load_model(bundles / "meningioma/00")
    certain = TaskModel(model.encoder, model.spec)
    last = [m for m in certain.head.modules() if isinstance(m, torch.nn.Conv3d) and m.out_channels == 2][-1]
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(0.01)
        last.bias.copy_(torch.tensor([9.0, -9.0]))
    save_model(tmp_path / "meningioma/00", certain, {})
    scans = scans_of(data, "meningioma")
    forward, calls = TaskModel.forward, list[int]()
    monkeypatch.setattr(TaskModel, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    assert not np.any(predict_case(tmp_path / "meningioma/00", {**scans, "swi": scans["t2s"]}))
    windows = len(calls)
    run(tmp_path, "meningioma", tmp_path / "sub_1.nii.gz", scans)
    assert len(calls) == 2 * windows
    assert np.asarray(nib.load(tmp_path / "sub_1.nii.gz").dataobj).sum() == 1
    assert "the mask was empty" in capsys.readouterr().err


def test_several_bundles_are_averaged(bundles: Path, data: Path, tmp_path: Path) -> None:
    spec = load_model(bundles / "age/00").spec
    for number, mean in ("00", 40.0), ("01", 60.0):
        model = TaskModel(create_encoder("unet_t", 2), replace(spec, target_mean=mean), seed=int(number))
        save_model(tmp_path / "age" / number, model, {})
    scans = scans_of(data, "age")
    run(tmp_path, "age", tmp_path / "sub_1.txt", scans)
    alone = [predict_case(tmp_path / "age" / number, scans) for number in ("00", "01")]
    assert alone[1] - alone[0] > 5
    assert float((tmp_path / "sub_1.txt").read_text()) == pytest.approx(np.mean(alone), rel=1e-6)


def test_a_model_trained_to_lack_sequences_does_without_one(bundles: Path, data: Path, tmp_path: Path) -> None:
    model = load_model(bundles / "age/00")
    spec = replace(model.spec, sequences=("t1", "flair"), missing="zeros")
    save_model(tmp_path / "age/00", TaskModel(model.encoder, spec), {})
    scans = scans_of(data, "age")
    run(tmp_path, "age", tmp_path / "sub_1.txt", scans)
    assert float((tmp_path / "sub_1.txt").read_text()) == pytest.approx(
        predict_case(tmp_path / "age/00", {"t1": scans["t1"]}), rel=1e-6
    )
    with pytest.raises(TaskError, match="no scan given"):
        choose(("t1", "flair"), {"t2": scans["t2"]}, may_lack=True)
    check_model(TASKS["age"], "regression", ("t1", "flair"), 1, tmp_path, may_lack=True)
    with pytest.raises(TaskError, match="needs flair"):
        check_model(TASKS["age"], "regression", ("flair",), 1, tmp_path, may_lack=True)


def test_scans_that_the_model_does_not_use_are_left_alone() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    assert choose(("flair", "swi|t2s"), {"flair": a, "adc": b, "t2s": c}) == {"flair": a, "swi|t2s": c}
    assert choose(("t2s",), {"swi": a, "t2s": b}) == {"t2s": b}
    with pytest.raises(TaskError, match="no --swi or --t2s given"):
        choose(("swi",), {"flair": a})


def test_a_model_has_to_fit_every_case_of_the_task() -> None:
    here = Path("bundle")
    for name, channels in (("infarct", ("flair", "adc", "swi")), ("meningioma", ("dwi_b1000",)), ("age", ("t2", "t1"))):
        check_model(TASKS[name], TASKS[name].kind, channels, 1 if name == "age" else 2, here)
    mistakes = {
        "a regression model": ("infarct", "regression", ("flair",), 1),
        "a model of 3 classes": ("infarct", "classification", ("flair",), 3),
        "needs t1c": ("meningioma", "segmentation", ("flair", "t1c"), 2),
        "needs adc": ("meningioma", "segmentation", ("flair", "adc"), 2),
        "may have only flair, dwi_b1000, adc, swi": ("infarct", "classification", ("swi", "t2s"), 2),
    }
    for message, (name, kind, channels, classes) in mistakes.items():
        with pytest.raises(TaskError, match=message):
            check_model(TASKS[name], kind, channels, classes, here)


def test_the_command_lines_are_those_of_the_organisers() -> None:
    assert {task.number: set(task.flags) for task in TASKS.values()} == {
        1: {"flair", "adc", "dwi_b1000", "t2s", "swi"},
        2: {"flair", "dwi_b1000", "t2s", "swi"},
        3: {"t1", "t2"},
    }
    assert [(task.least, task.suffix) for task in TASKS.values()] == [(4, ".txt"), (3, ".nii.gz"), (2, ".txt")]


MISTAKES: dict[str, tuple[dict[str, str], str, str]] = {
    "a scan is missing": ({"t1": "t1"}, "x.txt", "no --t2 given"),
    "no scans": ({}, "x.txt", "no --t1 given"),
    "a file that is not there": ({"t1": "t1", "t2": "nowhere"}, "x.txt", "no file for --t2"),
    "a file that is no image": ({"t1": "t1", "t2": "broken"}, "x.txt", "not_nifti"),
    "another extension": ({"t1": "t1", "t2": "t2"}, "x.nii.gz", "age writes .txt"),
    "a flag of another task": ({"t1": "t1", "flair": "t2"}, "x.txt", "unrecognized arguments"),
    "a flag cut short": ({"t": "t1"}, "x.txt", "unrecognized arguments"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    name: str, bundles: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, output, message = MISTAKES[name]
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    files = {**scans_of(data, "age"), "nowhere": tmp_path / "no.nii.gz", "broken": broken}
    with pytest.raises(SystemExit) as stop:
        run(bundles, "age", tmp_path / "out" / output, {flag: files[key] for flag, key in given.items()})
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_another_task_is_refused(
    bundles: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(bundles / "age/00")
    save_model(tmp_path / "infarct/00", TaskModel(model.encoder, replace(model.spec, sequences=("flair", "adc"))), {})
    with pytest.raises(SystemExit):
        run(tmp_path, "infarct", tmp_path / "x.txt", scans_of(data, "infarct"))
    assert "a regression model, infarct is a classification" in capsys.readouterr().err
