from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.corpus.store import Store
from fomo_ssl.imaging.nifti import write
from fomo_ssl.preprocess import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in/sub_1/ses_1").mkdir(parents=True)
    data = numpy_generator(0).uniform(10, 100, (20, 20, 20)).astype("float32")
    write(tmp_path / "in/sub_1/ses_1/t1.nii.gz", data, np.diag([3.0, 3, 3, 1]))
    return tmp_path / "in"


def test_the_command_makes_a_store(source: Path, tmp_path: Path, capsys):
    main([f"source={source}", f"store={tmp_path / 'out'}", "spacing=2", "workers=1"])
    store = Store.open(tmp_path / "out")
    assert len(store) == 1
    assert store.spec.spacing == 2.0
    assert "1 scans processed" in capsys.readouterr().out


def test_masks_beside_scans_are_taken_by_their_name(source: Path, tmp_path: Path, capsys):
    mask = np.zeros((20, 20, 20), bool)
    mask[:, 12:] = True
    write(source / "sub_1/ses_1/t1_face.nii.gz", mask, np.diag([3.0, 3, 3, 1]))
    pattern = 'masks.deface="{stem}_face.nii.gz"'
    main([f"source={source}", f"store={tmp_path / 'out'}", "spacing=3", "workers=1", pattern])
    assert Store.open(tmp_path / "out").index.column("valid_share").to_pylist() == [pytest.approx(0.6)]
    assert "1 of 1 scans have a deface mask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "source"),
        (["source=/none", "store={out}"], "no such folder"),
        (["source={source}", "store={out}", "spacing=fine"], "spacing='fine'"),
        (["source={source}", "store={out}", "workers=0"], "workers=0"),
        (["source={source}", "store={out}", "crop_foreground=perhaps"], "crop_foreground=perhaps is neither"),
        (["source={source}", "store={out}", "spacng=1"], "spacng"),
        (["source={source}", "store={out}", "masks.brain=mask.nii"], "names no file beside any of 1 scans"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(source: Path, tmp_path: Path, capsys, arguments: list[str], line: str):
    with pytest.raises(SystemExit) as caught:
        main([argument.format(source=source, out=tmp_path / "out") for argument in arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert "\n" not in error
