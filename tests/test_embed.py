import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from rich.console import Console

from fomo_ssl import embed
from fomo_ssl.bundle import (
    BundleConfig,
    InputContract,
    ReleasedEncoder,
    bundle_digest,
    load_encoder,
    save_bundle,
)
from fomo_ssl.corpus.description import describe_paths
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.downstream import embeddings
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.canonical import CanonicalSpec
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
    root = tmp_path_factory.mktemp("tree") / "scans"
    for seed in range(3):
        volume = phantom(seed)
        write(root / f"sub_{seed}" / "ses_1" / "t1.nii.gz", volume.data, volume.affine)
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub_0\t40-50\tM\nsub_1\t71\tF\n")
    return root


def run(bundle: Path, output: Path, *arguments: object) -> None:
    embed.main(["--bundle", str(bundle), "--output", str(output), "--device", "cpu", *map(str, arguments)])


def test_parquet_holds_what_the_encoder_says_and_what_is_known(
    bundle: Path, scans: Path, tmp_path: Path, memory_kept: list[bool]
) -> None:
    output = tmp_path / "e.parquet"
    run(bundle, output, scans)
    table = pyarrow.parquet.read_table(output)
    assert table["path"].to_pylist() == [str(scans / f"sub_{i}" / "ses_1" / "t1.nii.gz") for i in range(3)]
    assert table.column_names[:12] == [*embeddings.COLUMNS, "e0", "e1"]
    assert table["age"].to_pylist() == [45, 71, None]
    assert table["sex"].to_pylist() == ["M", "F", None]
    for name, value in (("dataset", "scans"), ("session", "ses_1"), ("sequence", "t1")):
        assert table[name].to_pylist() == [value] * 3
    expected = load_encoder(bundle).embed(scans / "sub_1" / "ses_1" / "t1.nii.gz").numpy()
    np.testing.assert_array_equal(embeddings.vectors(table)[1], expected)
    facts = json.loads(table.schema.metadata[b"fomo_ssl"])
    assert facts["bundle_digest"] == bundle_digest(bundle)
    assert (tmp_path / "e_rejected.csv").read_text() == '"path","reason","detail"\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.parquet", "e_rejected.csv"]
    assert len(memory_kept) == 1


def test_rejected_scans_are_listed_with_their_reason_and_counted(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, missing, output = tmp_path / "bad.nii.gz", tmp_path / "missing.nii.gz", tmp_path / "e.csv"
    bad.write_bytes(b"not an image")
    good = scans / "sub_0" / "ses_1" / "t1.nii.gz"
    run(bundle, output, good, bad, missing, good)
    out = capsys.readouterr().out
    assert "1 embedded" in out
    assert "2 rejected" in out
    assert pyarrow.csv.read_csv(output)["path"].to_pylist() == [str(good)]
    with (tmp_path / "e_rejected.csv").open() as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert listed == {str(bad): "not_nifti", str(missing): "unreadable"}


def test_a_run_that_broke_off_is_gone_on_with(
    bundle: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, seen = tmp_path / "e.parquet", []
    original = ReleasedEncoder.embed

    def counted(self: ReleasedEncoder, scan: Path) -> torch.Tensor:
        if len(seen) == 2:
            seen.append("stop")
            raise KeyboardInterrupt
        seen.append(scan.parts[-3])
        return original(self, scan)

    monkeypatch.setattr(ReleasedEncoder, "embed", counted)
    with pytest.raises(SystemExit) as stop:
        run(bundle, output, scans)
    assert stop.value.code == 130
    assert not output.exists()
    run(bundle, output, scans)
    assert seen == ["sub_0", "sub_1", "stop", "sub_2"]
    resumed = pyarrow.parquet.read_table(output)
    monkeypatch.undo()
    run(bundle, tmp_path / "whole.parquet", scans)
    assert resumed.equals(pyarrow.parquet.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / "e.parquet.parts").exists()


def test_parts_of_other_scans_do_not_hide_that_none_worked(bundle: Path, scans: Path, tmp_path: Path) -> None:
    bad, output = tmp_path / "bad.nii.gz", tmp_path / "e.parquet"
    bad.write_bytes(b"")
    encoder, console = load_encoder(bundle), Console(quiet=True)
    items = embeddings.items_of_files(describe_paths([scans / "sub_0"]))
    table, rejected = embeddings.embed_items(encoder, items, output, {}, console)
    assert (len(table), rejected) == (1, [])
    items = embeddings.items_of_files(describe_paths([bad]))
    table, rejected = embeddings.embed_items(encoder, items, output, {}, console)
    assert (len(table), [line.path for line in rejected]) == (0, [str(bad)])


def test_parts_of_another_bundle_are_not_used(bundle: Path, scans: Path, tmp_path: Path) -> None:
    parts = tmp_path / "e.parquet.parts"
    parts.mkdir()
    (parts / "plan.json").write_text('{"bundle_digest": "other"}')
    (parts / "000000.parquet").write_bytes(b"never read")
    run(bundle, tmp_path / "e.parquet", scans / "sub_0")
    assert len(pyarrow.parquet.read_table(tmp_path / "e.parquet")) == 1


def test_a_store_gives_nearly_the_same_as_its_files(bundle: Path, scans: Path, tmp_path: Path) -> None:
    """Nearly: a store keeps 12 bits, which the clipping to its robust range dominates."""
    spec = load_encoder(bundle).config.input.spec
    preprocess(scans, tmp_path / "store", spec, min_slices=1)
    run(bundle, tmp_path / "files.parquet", scans)
    run(bundle, tmp_path / "store.parquet", "--store", tmp_path / "store")
    by_file, by_row = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("files", "store"))
    known = [name for name in embeddings.COLUMNS if name != "path"]
    assert by_row.select(known).to_pylist() == by_file.select(known).to_pylist()
    first, second = embeddings.vectors(by_file), embeddings.vectors(by_row)
    assert np.abs(first - second).max() < 0.05 * first.std()


def test_a_store_in_another_form_is_refused(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess(scans, tmp_path / "store", CanonicalSpec(spacing=4.0), min_slices=1)
    with pytest.raises(SystemExit):
        run(bundle, tmp_path / "e.parquet", "--store", tmp_path / "store")
    assert "spacing 4.0, the encoder expects None" in capsys.readouterr().err


def test_nothing_that_works_is_an_error_and_leaves_no_table(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, output = tmp_path / "bad.nii.gz", tmp_path / "e.parquet"
    bad.write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        run(bundle, output, bad)
    assert stop.value.code == 2
    assert "none of 1 scans" in capsys.readouterr().err
    assert "empty_file" in (tmp_path / "e_rejected.csv").read_text()
    assert not output.exists()


def test_a_figure_and_a_probe_come_with_the_table(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bundle, tmp_path / "e.parquet", scans, "--figure", tmp_path / "map.png")
    assert "PCA" in capsys.readouterr().out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        run(bundle, tmp_path / "e.parquet", scans, "--label", "sex")
    assert "a probe needs 2" in capsys.readouterr().err


def test_lightning_and_hydra_are_not_imported(bundle: Path, scans: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(bundle), "--output", str(tmp_path / "e.csv"), str(scans), "--device", "cpu"]
    code = (
        "import sys; from fomo_ssl.embed import main; main(sys.argv[1:]);"
        "bad = {'lightning', 'hydra', 'wandb'} & set(sys.modules); assert not bad, bad"
    )
    command = [sys.executable, "-c", code, *arguments, "--figure", str(tmp_path / "map.svg")]
    subprocess.run(command, check=True, timeout=120)


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "kind of table": (("SCANS", "--output", "e.xlsx"), "unknown kind of file"),
    "kind of picture": (("SCANS", "--output", "e.csv", "--figure", "e.bmp"), "unknown kind of file"),
    "bundle": (("SCANS", "--output", "e.csv", "--bundle", "nowhere"), "no bundle here"),
    "label": (("SCANS", "--output", "e.csv", "--label", "mood"), "no label 'mood'"),
    "empty folder": (("EMPTY", "--output", "e.csv"), "no NIfTI file"),
    "scans and a store": (("SCANS", "--store", "SCANS", "--output", "e.csv"), "not both"),
    "no store": (("--store", "SCANS", "--output", "e.csv"), "no finished store"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    name: str,
    bundle: Path,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    words = {"SCANS": str(scans), "EMPTY": str(tmp_path / "empty")}
    arguments, message = MISTAKES[name]
    with pytest.raises(SystemExit) as stop:
        embed.main(["--bundle", str(bundle), *(words.get(word, word) for word in arguments)])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
