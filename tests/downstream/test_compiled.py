"""`compile=true` changes the speed of finetuning and not what comes of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fomo_ssl.downstream.inference import predict_case
from fomo_ssl.downstream.scores import read_csv
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.finetune import main


def test_a_network_without_blocks_to_compile_is_refused(make_task, tmp_path, capsys):
    words = [f"task={make_task('regression', 4)}", "bundle=none", "encoder=swin_t", "encoder.dim=6", "crop=32"]
    with pytest.raises(SystemExit) as stop:
        main(
            [*words, "shots=1", "seeds=1", "n_test=1", "steps=1", "parallel=1", "compile=true", f"run={tmp_path / 'r'}"]
        )
    assert stop.value.code == 2
    assert "compile=false" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmentation", "regression"])
def test_a_compiled_finetuning_predicts_what_the_plain_one_does(make_task, bundle, tmp_path, kind):
    task = make_task(kind, 5)
    words = [f"task={task}", f"bundle={bundle}", "shots=2", "seeds=2", "n_test=2", "steps=4", "batch_size=2", "crop=16"]
    words += ["precision=32-true", "n_validation=1", "validate_every=2", "parallel=1"]
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        # In processes of their own: the shape checks of the tests are no code for the compiler.
        command = [sys.executable, "-m", "fomo_ssl.finetune", *words, f"run={tmp_path / name}", f"compile={compiled}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "compiled/run.json").read_text())["recipe"]["compile"] is True
    assert "compile" not in json.loads((tmp_path / "plain/run.json").read_text())["recipe"]
    units = sorted(folder.name for folder in (tmp_path / "plain/units").iterdir())
    assert len(units) == 4
    for unit in units:
        plain, compiled = (tmp_path / name / "units" / unit for name in ("plain", "compiled"))
        tables = [read_csv(folder / "predictions.csv", kind) for folder in (plain, compiled)]
        for name, column in tables[0].columns.items():
            np.testing.assert_allclose(tables[1].columns[name], column, rtol=1e-3, atol=2e-3, err_msg=f"{unit} {name}")
        case = load_task(task)[tables[0].cases[0]]
        one, other = (predict_case(folder / "bundle", case.images) for folder in (plain, compiled))
        # A network of four steps is undecided in many voxels, and Adam's first steps enlarge rounding.
        assert np.mean(np.isclose(one, other, rtol=1e-3)) > 0.99
