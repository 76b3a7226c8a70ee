import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl import evaluate
from fomo_ssl.bundle import BundleConfig, InputContract, save_bundle
from fomo_ssl.config import compose
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic.phantoms import phantom


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real finetuning run of two steps a unit: what the report reads is what finetuning writes."""
    from fomo_ssl.finetune import main

    root = tmp_path_factory.mktemp("finetuned")
    for case in range(5):
        volume = phantom(case)
        name = f"sub_{case}/ses_1"
        write(root / "task" / "preprocessed" / name / "t1.nii.gz", volume.data, volume.affine)
        bright = (volume.data > np.percentile(volume.data, 90)).astype(np.uint8)
        write(root / "task" / "labels" / name / "seg.nii.gz", bright, volume.affine)
    contract = InputContract(("t1",), spacing=None, max_upsample=2.0, crop=(32, 32, 32))
    training = {"samples": 0, "data_fingerprint": "1234abcd"}
    bundle = root / "mae_run" / "bundle"
    save_bundle(bundle, create_encoder("unet_t"), BundleConfig("unet_t", {}, 1, contract, training))
    small = ("shots=1", "seeds=1", "n_test=4", "steps=2", "batch_size=1", "parallel=1")
    main([f"bundle={bundle}", f"task={root / 'task'}", f"run={root / 'run'}", *small])
    return root / "run"


def test_a_run_becomes_a_page_and_a_table(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([f"runs={run}", f"output={tmp_path}"])
    out = capsys.readouterr().out
    assert str(tmp_path / "report.html") in out
    assert "surface_dice" in out
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert {(line["init"], line["metric"]) for line in lines} == {
        (init, metric) for init in ("pretrained", "scratch") for metric in ("dice", "surface_dice", "volume_error")
    }
    page = (tmp_path / "report.html").read_text()
    # Four test cases: one worst, one median and one best.
    assert page.count("data:image/png") == 3
    assert "1234abcd" in page
    assert "could not be drawn" not in page


def test_unfinished_units_are_counted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "units" / "shots1_seed0_scratch" / "result.json").unlink()
    evaluate.main([f"runs={tmp_path}/r*"])
    assert "1 of 2 units are not finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("runs={}/nothing_*", "nothing matches"),
        ("runs=[{}/nothing_1,{}/nothing_2]", "nothing matches"),
        ("runs={}", "none of 1 matches is a finetuning run"),
        ("run={}", "unknown key 'run'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    argument: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main([argument.replace("{}", str(tmp_path))])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1


def test_root_keys_are_these() -> None:
    assert set(compose("evaluate", ["runs=x"])) == {"runs", "output"}
