from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from fomo_ssl import embed
from fomo_ssl.bundle import BundleConfig, InputContract, load_encoder, save_bundle
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic.phantoms import phantom


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    encoder = create_encoder("unet_t")
    contract = InputContract(("t1",), spacing=None, max_upsample=2.0, crop=(32, 32, 32))
    save_bundle(path, encoder, BundleConfig("unet_t", {}, 1, contract, {}))
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for seed in range(3):
        volume = phantom(seed)
        write(root / f"sub_{seed}" / "t1.nii.gz", volume.data, volume.affine)
    return root


def test_parquet_holds_what_the_encoder_says(bundle: Path, scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.parquet"
    embed.main([str(scans), "--bundle", str(bundle), "--output", str(output)])
    table = pyarrow.parquet.read_table(output)
    assert table["path"].to_pylist() == [str(scans / f"sub_{i}" / "t1.nii.gz") for i in range(3)]
    assert table.column_names[:3] == ["path", "e0", "e1"]
    expected = load_encoder(bundle).embed(scans / "sub_1" / "t1.nii.gz").numpy()
    got = np.array([table[name][1].as_py() for name in table.column_names[1:]], np.float32)
    np.testing.assert_array_equal(got, expected)


def test_rejected_scans_are_named_counted_and_left_out(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not an image")
    output = tmp_path / "e.csv"
    good = scans / "sub_0" / "t1.nii.gz"
    missing = tmp_path / "missing.nii.gz"
    embed.main([str(good), str(bad), str(missing), "--bundle", str(bundle), "--output", str(output)])
    captured = capsys.readouterr()
    assert f"rejected {bad}: " in captured.err
    assert f"rejected {missing}: unreadable" in captured.err
    assert "1 embedded, 2 rejected" in captured.out
    assert pyarrow.csv.read_csv(output)["path"].to_pylist() == [str(good)]


def test_nothing_that_works_is_an_error_and_leaves_no_file(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, output = tmp_path / "bad.nii.gz", tmp_path / "e.parquet"
    bad.write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        embed.main([str(bad), "--bundle", str(bundle), "--output", str(output)])
    assert stop.value.code == 2
    assert "none of 1 scans" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("output", "bundle_name", "message"),
    [("e.xlsx", "bundle", "unknown kind of table"), ("e.csv", "no_bundle", "no bundle here")],
)
def test_mistakes_are_one_line_and_exit_code_2(
    output: str,
    bundle_name: str,
    message: str,
    bundle: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(bundle.parent / bundle_name)
    with pytest.raises(SystemExit) as stop:
        embed.main([str(scans), "--bundle", path, "--output", str(tmp_path / output)])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1


def test_an_empty_folder_is_an_error(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        embed.main([str(tmp_path), "--bundle", str(bundle), "--output", str(tmp_path / "e.csv")])
    assert stop.value.code == 2
    assert "no NIfTI file" in capsys.readouterr().err


def test_a_header_and_image_pair_is_one_scan(tmp_path: Path) -> None:
    for name in ("a.hdr", "a.img", "b.nii", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in embed.find_scans([tmp_path])] == ["a.img", "b.nii"]
