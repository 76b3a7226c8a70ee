import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fomo_ssl import predict
from fomo_ssl.bundle import BundleConfig, InputContract, save_bundle
from fomo_ssl.core.errors import ConfigError, TaskError
from fomo_ssl.downstream.inference import predict_case
from fomo_ssl.downstream.models import TaskModel, TaskSpec, load_model, save_model
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic.phantoms import phantom

SPEC = TaskSpec("toy", "segmentation", ("flair", "swi"), 2, (48, 48, 48), 2.0, 2.0, True)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    specs = {
        "mask": SPEC,
        "class": replace(SPEC, kind="classification", sequences=("t1",)),
        "classes": replace(SPEC, kind="classification", sequences=("t1",), classes=3),
        "value": replace(SPEC, kind="regression", sequences=("t1",), classes=1, target_mean=50.0, target_std=10.0),
        "column": replace(SPEC, kind="regression", sequences=("image",), classes=1),
    }
    for name, spec in specs.items():
        model = TaskModel(create_encoder("unet_t", len(spec.sequences)), spec)
        save_model(root / name, model, {})
    bare = create_encoder("unet_t")
    save_bundle(root / "bare", bare, BundleConfig("unet_t", {}, 1, InputContract(("t1",), 2.0, 2.0, (32, 32, 32)), {}))
    return root


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique LPS scan of 2 x 2 x 3 mm: nothing about its grid is canonical."""
    path = tmp_path_factory.mktemp("scan") / "a.nii.gz"
    data = phantom(0, shape=(36, 40, 24)).data
    turn = np.deg2rad(10)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-2.0, -2.0, 3.0])
    affine[:3, 3] = [30.0, 41.5, -17.0]
    write(path, data, affine)
    return path


def run(bundle: Path, output: Path, **scans: Path) -> None:
    flags = [text for name, path in scans.items() for text in (f"--{name}", str(path))]
    predict.main(["--bundle", str(bundle), "--output", str(output), "--device", "cpu", *flags])


def test_a_mask_comes_back_on_the_grid_of_the_input(bundles: Path, scan: Path, tmp_path: Path) -> None:
    run(bundles / "mask", tmp_path / "out.nii.gz", flair=scan, t2s=scan)
    got, given = nib.load(tmp_path / "out.nii.gz"), nib.load(scan)
    assert got.shape == given.shape
    np.testing.assert_array_equal(got.affine, given.affine)
    assert nib.aff2axcodes(got.affine) == ("L", "P", "S")
    assert np.issubdtype(got.get_data_dtype(), np.integer)
    assert set(np.unique(np.asarray(got.dataobj))) <= {0, 1}


def test_numbers_come_back_as_text(bundles: Path, scan: Path, tmp_path: Path, memory_kept: list[bool]) -> None:
    for name in ("class", "classes", "value"):
        run(bundles / name, tmp_path / f"{name}.txt", t1=scan)
    probability, label, value = (float((tmp_path / f"{n}.txt").read_text()) for n in ("class", "classes", "value"))
    assert 0 < probability < 1
    assert label in (0, 1, 2)
    # An untrained head stays within a few deviations of the mean that the bundle remembers.
    assert 0 < value < 100
    assert len(memory_kept) == 3


def test_the_value_is_that_of_the_evaluation(bundles: Path, scan: Path, tmp_path: Path) -> None:
    from fomo_ssl.downstream.inference import predict_case

    run(bundles / "value", tmp_path / "v.txt", t1=scan)
    assert float((tmp_path / "v.txt").read_text()) == pytest.approx(predict_case(bundles / "value", {"t1": scan}))
    run(bundles / "mask", tmp_path / "m.nii.gz", flair=scan, swi=scan)
    expected = predict_case(bundles / "mask", {"flair": scan, "swi": scan})
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj), expected)


def test_mirror_images_are_averaged_where_they_are_asked_for(bundles: Path, scan: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "mirrored", replace_spec(bundles / "value", mirror=("x", "y")), {})
    flags = {"plain": [], "asked": ["--mirror", "y", "x"], "trained": [], "refused": ["--mirror"]}
    values = {}
    for name, flag in flags.items():
        bundle = tmp_path / "mirrored" if name in ("trained", "refused") else bundles / "value"
        out = tmp_path / f"{name}.txt"
        predict.main(["--bundle", str(bundle), "--output", str(out), "--device", "cpu", "--t1", str(scan), *flag])
        values[name] = float(out.read_text())
    assert values["refused"] == values["plain"] != values["asked"]
    assert values["asked"] == pytest.approx(values["trained"])


def replace_spec(bundle: Path, **changes: object) -> TaskModel:
    model = load_model(bundle)
    model.spec = replace(model.spec, **changes)
    return model


def test_a_sequence_that_only_the_task_knows_has_its_flag(bundles: Path, scan: Path, tmp_path: Path) -> None:
    run(bundles / "column", tmp_path / "v.txt", image=scan)
    assert (tmp_path / "v.txt").is_file()


Mistake = Callable[[Path, Path, Path], None]
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "wrong extension for a mask": (lambda b, s, o: run(b / "mask", o / "x.txt", flair=s, swi=s), r"\.nii\.gz"),
    "wrong extension for a number": (lambda b, s, o: run(b / "value", o / "x.nii.gz", t1=s), r"\.txt"),
    "a sequence is missing": (lambda b, s, o: run(b / "mask", o / "x.nii.gz", flair=s), "no --swi or --t2s given"),
    "two for one channel": (
        lambda b, s, o: run(b / "mask", o / "x.nii.gz", flair=s, swi=s, t2s=s),
        "both --swi and --t2s",
    ),
    "a sequence too many": (lambda b, s, o: run(b / "value", o / "x.txt", t1=s, t2=s), "does not take --t2"),
    "a bundle without a head": (lambda b, s, o: run(b / "bare", o / "x.txt", t1=s), "no task head"),
    "no bundle": (lambda b, s, o: run(b / "nowhere", o / "x.txt", t1=s), "no bundle here"),
    "a file that is no image": (lambda b, s, o: run(b / "value", o / "x.txt", t1=b / "value" / "config.json"), "nii"),
    "a file that is not there": (lambda b, s, o: run(b / "value", o / "x.txt", t1=o / "no.nii.gz"), "unreadable"),
    "an unknown flag": (lambda b, s, o: run(b / "value", o / "x.txt", t1=s, t7=s), "--t7"),
    "no device": (lambda b, s, o: predict.main([*_flags(b, s, o), "--device", "warp"]), "no device 'warp'"),
    "no bundle given": (lambda b, s, o: predict.main(["--output", "x.txt"]), "--bundle"),
}


def _flags(bundles: Path, scan: Path, output: Path) -> list[str]:
    return ["--bundle", str(bundles / "value"), "--t1", str(scan), "--output", str(output / "x.txt")]


def test_several_bundles_are_averaged(bundles: Path, scan: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    spec = replace(SPEC, kind="regression", sequences=("t1",), classes=1, target_mean=20.0, target_std=5.0)
    # Another spacing: every member reads the scan as it was trained.
    save_model(tmp_path / "other", TaskModel(create_encoder("unet_t", 1), replace(spec, spacing=3.0)), {})
    values = []
    for number, members in enumerate(
        ([bundles / "value"], [tmp_path / "other"], [bundles / "value", tmp_path / "other"])
    ):
        output = tmp_path / f"{number}.txt"
        words = [str(member) for member in members]
        predict.main(["--bundle", *words, "--output", str(output), "--device", "cpu", "--t1", str(scan)])
        values.append(float(output.read_text()))
    assert values[0] != values[1]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-6)


def test_a_model_trained_with_zeros_does_without_a_sequence(bundles: Path, scan: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, kind="regression", classes=1, missing="zeros")
    save_model(tmp_path / "lenient", TaskModel(create_encoder("unet_t", 2), spec), {})
    run(tmp_path / "lenient", tmp_path / "out.txt", swi=scan)
    assert float((tmp_path / "out.txt").read_text()) == pytest.approx(
        predict_case(tmp_path / "lenient", {"swi": scan}), rel=1e-6
    )
    with pytest.raises(TaskError, match="does not take --t1"):
        predict.choose_files(spec.sequences, {"t1": scan, "swi": scan}, may_lack=True)
    with pytest.raises(TaskError, match="no --flair"):
        predict.choose_files(spec.sequences, {}, may_lack=True)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    name: str, bundles: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    act, message = MISTAKES[name]
    with pytest.raises(SystemExit) as stop:
        act(bundles, scan, tmp_path)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1
    assert err.startswith("fomo_ssl: ")
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_swi_and_t2s_stand_in_for_each_other_unless_both_are_channels() -> None:
    assert predict.alternatives("swi", ("flair", "swi")) == ["swi", "t2s"]
    assert predict.alternatives("t2s", ("t2s",)) == ["t2s", "swi"]
    assert predict.alternatives("swi|t2s", ("swi|t2s",)) == ["swi", "t2s"]
    assert predict.alternatives("swi", ("swi", "t2s")) == ["swi"]
    assert predict.alternatives("t1", ("t1",)) == ["t1"]


def test_files_are_matched_to_channels() -> None:
    a, b = Path("a"), Path("b")
    assert predict.choose_files(("flair", "swi|t2s"), {"t2s": a, "flair": b}) == {"flair": b, "swi|t2s": a}
    with pytest.raises(TaskError, match="does not take --adc"):
        predict.choose_files(("flair",), {"flair": a, "adc": b})
    with pytest.raises(ConfigError, match=r"use --output sub_1\.txt"):
        predict.check_output(Path("sub_1.nii.gz"), "classification")


def test_help_shows_the_scans_of_the_model(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, shown, hidden in (
        ([], "--dwi_b1000", "scans of this model"),
        (["--bundle", str(bundles / "mask")], "--swi or --t2s", "--dwi_b1000"),
    ):
        with pytest.raises(SystemExit) as stop:
            predict.main([*flags, "--help"])
        out = capsys.readouterr().out
        assert stop.value.code == 0
        assert shown in out
        assert hidden not in out


def test_lightning_and_hydra_are_not_imported(bundles: Path, scan: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(bundles / "value"), "--t1", str(scan), "--output", str(tmp_path / "v.txt")]
    code = (
        "import sys; from fomo_ssl.predict import main; main(sys.argv[1:]);"
        "bad = {'lightning', 'hydra', 'wandb'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=120)
    assert torch.isfinite(torch.tensor(float((tmp_path / "v.txt").read_text())))
