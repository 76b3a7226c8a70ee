"""Masks beside scans: which file belongs to which scan, and what the store makes of it."""

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.errors import ConfigError, StoreError
from fomo_ssl.corpus.codec import LEVELS, NOT_VALID, read_flagged
from fomo_ssl.corpus.layouts import ScanRow, find_scans
from fomo_ssl.corpus.masks import DEFAULT_RULES, Mask, find_masks
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.schema import SCHEMA
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import read, write
from fomo_ssl.imaging.orientation import to_ras

SPEC = CanonicalSpec(None)
RULES = {"deface": "{stem}_face.nii.gz"}
T1, FLAIR = "sub_1/ses_1/t1.nii.gz", "sub_1/ses_1/flair.nii.gz"


def front(volume) -> np.ndarray:
    face = np.zeros(volume.data.shape, bool)
    face[:, int(0.7 * face.shape[1]) :, : face.shape[2] // 2] = True
    return face


@pytest.fixture
def source(tree: Path, tmp_path: Path) -> Path:
    """The tree with a face mask beside two of its scans; their names are those of T1 and FLAIR scans."""
    source = shutil.copytree(tree, tmp_path / "source")
    for name in (T1, FLAIR):
        volume = read(source / name)
        write(source / name.replace(".nii.gz", "_face.nii.gz"), front(volume), volume.affine)
    return source


def cells(store: Path) -> dict[str, dict]:
    return {row["path"]: row for row in Store.open(store).index.to_pylist()}


def test_names_beside_scans_in_folders_and_archives(tmp_path: Path):
    names = ["sub_1/ses_1/t1.nii.gz", "sub_1/ses_1/t2.nii", "sub_1/ses_1/t1_x.nii.gz", "sub_1/ses_1/head.nii.gz"]
    names += ["derivatives/sub_1/ses_1/t1_brain.nii.gz"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub_2").mkdir()
    with zipfile.ZipFile(tmp_path / "sub_2/ses_1.zip", "w") as archive:
        for name in ("ses_1/t1.nii.gz", "ses_1/t1_x.nii.gz", "ses_1/head.nii.gz"):
            archive.writestr(name, b"x")
    rules = {
        "deface": "{stem}_x.nii.gz",
        "anatomy": "head.nii.gz",
        "brain": "../../derivatives/{subject}/{session}/{stem}_brain.nii.gz",
    }
    found, used = find_masks(tmp_path, find_scans(tmp_path), rules)
    assert used == rules
    folder, archive = "sub_1/ses_1", "sub_2/ses_1.zip!ses_1"
    assert found[f"{folder}/t1.nii.gz"] == (
        Mask("brain", "derivatives/sub_1/ses_1/t1_brain.nii.gz"),
        Mask("anatomy", f"{folder}/head.nii.gz"),
        Mask("deface", f"{folder}/t1_x.nii.gz"),
    )
    assert found[f"{folder}/t2.nii"] == (Mask("anatomy", f"{folder}/head.nii.gz"),)
    assert found[f"{archive}/t1.nii.gz"] == (
        Mask("anatomy", f"{archive}/head.nii.gz"),
        Mask("deface", f"{archive}/t1_x.nii.gz"),
    )


def test_openmind_is_known_by_its_table(tmp_path: Path):
    folder = "ds1/sub-1/anat"
    (tmp_path / "OpenMind" / folder).mkdir(parents=True)
    for name in ("a_T1w", "a_face", "a_head", "b_T1w"):
        (tmp_path / f"OpenMind/{folder}/{name}.nii.gz").touch()
    lines = [
        ",".join(f"{folder}/{scan}_{kind}.nii.gz" for kind in ("T1w", "face", "head")) + "\n"
        for scan in "ab"  # those of b are not there
    ]
    (tmp_path / "openneuro_metadata.csv").write_text("image_path,anon_mask_path,anat_mask_path\n" + "".join(lines))
    rows = find_scans(tmp_path)
    assert [row.path for row in rows] == [f"OpenMind/{folder}/{scan}_T1w.nii.gz" for scan in "ab"]
    face, head = (Mask(k, f"OpenMind/{folder}/a_{n}.nii.gz") for k, n in (("deface", "face"), ("anatomy", "head")))
    assert find_masks(tmp_path, rows, DEFAULT_RULES) == ({rows[0].path: (face,)}, {"deface": "openmind"})
    both, _ = find_masks(tmp_path, rows, {"deface": "openmind", "anatomy": "openmind"})
    assert both == {rows[0].path: (head, face)}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"face": "a.nii.gz"}, "unknown kind of mask 'face'. One of brain"),
        ({"deface": "{stam}_face.nii.gz"}, "no pattern of a NIfTI file"),
        ({"deface": "{stem_face.nii.gz"}, "no pattern of a NIfTI file"),
        ({"deface": "{stem}_face.mgz"}, "no pattern of a NIfTI file"),
        ({"brain": "openmind"}, "no pattern of a NIfTI file"),
        ({"deface": "{stem}_fase.nii.gz"}, "names no file beside any of 9 scans"),
        ({"deface": "../../../../{stem}_face.nii.gz"}, "names no file"),
    ],
)
def test_rules_that_can_name_no_mask_are_refused(source: Path, tmp_path: Path, rules: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        preprocess(source, tmp_path / "store", SPEC, masks=rules)
    assert not (tmp_path / "store").exists()


def test_a_store_without_masks_tells_nothing_of_them(tree: Path, source: Path, tmp_path: Path):
    """A store with masks differs in the scans that have one, and a store without is of the old schema."""
    preprocess(tree, tmp_path / "plain", SPEC)
    preprocess(source, tmp_path / "masks", SPEC, masks=RULES, workers=2)
    plain, masked = Store.open(tmp_path / "plain"), Store.open(tmp_path / "masks")
    assert plain.index.schema.names == SCHEMA.names
    assert plain.config == {"min_slices": 15}
    assert '"schema": 1,' in (plain.path / "store.json").read_text()
    assert '"schema": 2,' in (masked.path / "store.json").read_text()
    assert masked.index.schema.names == [*SCHEMA.names, "masks", "valid_share"]
    before, after = (cells(store.path) for store in (plain, masked))
    assert before.keys() == after.keys(), "masks are no scans"
    for path, row in after.items():
        is_same = (plain.path / row["file"]).read_bytes() == (masked.path / row["file"]).read_bytes()
        assert is_same == (path not in (T1, FLAIR)), path
        differ = {name for name in before[path] if row[name] != before[path][name]}
        assert differ == (set() if is_same else {"file_bytes", "file_digest"}), path
        np.testing.assert_array_equal(masked.read(at(masked, path)), plain.read(at(plain, path)))


def at(store: Store, path: str) -> int:
    return store.index.column("path").to_pylist().index(path)


def test_flags_say_what_the_mask_says(source: Path, tmp_path: Path):
    preprocess(source, tmp_path / "store", SPEC, masks=RULES)
    store = Store.open(tmp_path / "store")
    row = cells(store.path)[T1]
    volume = to_ras(read(source / T1))
    face = front(read(source / T1))
    origin = np.rint(np.linalg.solve(volume.affine, [*np.reshape(row["affine"], (3, 4))[:, 3], 1])[:3]).astype(int)
    shape = [row[f"shape_{axis}"] for axis in "xyz"]
    wanted = face[tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))]
    values = read_flagged(store.path / row["file"])
    np.testing.assert_array_equal(values >= NOT_VALID, wanted)
    assert wanted.any()
    assert row["valid_share"] == pytest.approx(1 - wanted.mean())
    assert row["masks"] == f"deface {T1.replace('.nii', '_face.nii')}"
    assert store.read(at(store, T1)).max() <= LEVELS
    # A crop that reaches beyond the scan: what is outside counts.
    size = tuple(n + 6 for n in shape)
    flagged = store.read_crop(at(store, T1), (-3, -3, -3), size, flagged=True)
    np.testing.assert_array_equal(flagged >= NOT_VALID, np.pad(wanted, 3))
    np.testing.assert_array_equal(store.read_crop(at(store, T1), (-3, -3, -3), size), flagged & LEVELS)


def test_a_brain_mask_strips_the_scan_and_an_anatomy_mask_flags_the_rest(tree: Path, tmp_path: Path):
    source = shutil.copytree(tree, tmp_path / "source")
    volume = read(source / T1)
    brain = np.zeros(volume.data.shape, bool)
    brain[6:16, 6:18, 5:15] = True
    write(source / "sub_1/ses_1/t1_brain.nii.gz", brain, volume.affine)
    preprocess(source, tmp_path / "stripped", SPEC, masks={"brain": "{stem}_brain.nii.gz"})
    row, stripped = cells(tmp_path / "stripped")[T1], Store.open(tmp_path / "stripped")
    assert all(row[f"shape_{axis}"] < row[f"source_shape_{axis}"] for axis in "xyz")
    assert row["valid_share"] is None
    values = stripped.read(at(stripped, T1))
    assert (values > 0).sum() == pytest.approx(brain.sum(), rel=0.01)
    preprocess(source, tmp_path / "flagged", SPEC, masks={"anatomy": "{stem}_brain.nii.gz"})
    row = cells(tmp_path / "flagged")[T1]
    assert (read_flagged(tmp_path / "flagged" / row["file"]) < NOT_VALID).sum() == brain.sum()


def test_a_mask_that_cannot_be_used_sends_its_scan_to_quarantine_until_it_is_put_right(
    source: Path, tmp_path: Path, contents
):
    mask = source / T1.replace(".nii", "_face.nii")
    good = mask.read_bytes()
    preprocess(source, tmp_path / "whole", SPEC, masks=RULES)
    volume = read(source / T1)
    write(mask, volume.data, volume.affine)
    store = tmp_path / "store"
    summary = preprocess(source, store, SPEC, masks=RULES)
    assert summary.rejected == {"bad_mask": 1, "not_nifti": 1}
    lines = {line["path"]: line for line in csv.DictReader((store / "quarantine.csv").read_text().splitlines())}
    assert lines[T1]["detail"].startswith("deface mask sub_1/ses_1/t1_face.nii.gz: holds more than two values")
    before = contents(store)
    assert preprocess(source, store, SPEC, masks=RULES).processed == 1
    assert contents(store) == before
    mask.write_bytes(good)
    assert preprocess(source, store, SPEC, masks=RULES).rejected == {"not_nifti": 1}
    assert contents(store) == contents(tmp_path / "whole")


def test_a_mask_may_claim_no_more_than_a_scan(source: Path, tmp_path: Path, contents):
    mask, volume = source / T1.replace(".nii", "_face.nii"), read(source / T1)
    fine = volume.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    write(mask, np.kron(front(volume), np.ones((2, 2, 2))).astype(np.uint8), fine)
    store, most = tmp_path / "store", 4 * volume.data.size
    assert preprocess(source, store, SPEC, masks=RULES, max_voxels=most).rejected == {"bad_mask": 1, "not_nifti": 1}
    lines = {line["path"]: line for line in csv.DictReader((store / "quarantine.csv").read_text().splitlines())}
    assert lines[T1]["detail"].startswith("deface mask sub_1/ses_1/t1_face.nii.gz: too_large: header claims")
    # More is allowed now: the scan is tried again.
    assert preprocess(source, store, SPEC, masks=RULES, max_voxels=2 * most).rejected == {"not_nifti": 1}
    preprocess(source, tmp_path / "whole", SPEC, masks=RULES)
    assert contents(store) == contents(tmp_path / "whole")


def test_the_mask_of_a_series_is_tried_again_whatever_became_of_its_other_volumes(tmp_path: Path, make_ball):
    volume, path = make_ball(2), tmp_path / "source/sub_1/ses_1/dwi.nii.gz"
    path.parent.mkdir(parents=True)
    write(path.with_name("t1.nii.gz"), volume.data, volume.affine)
    write(path, np.stack([volume.data] * 3, axis=-1), volume.affine)
    path.with_name("dwi.bval").write_text("0 1000 1000\n")
    rules = {"anatomy": "{stem}_mask.nii.gz"}
    write(path.with_name("dwi_mask.nii.gz"), volume.data, volume.affine)
    summary = preprocess(tmp_path / "source", tmp_path / "store", SPEC, masks=rules)
    assert summary.rejected == {"bad_gradients": 1, "bad_mask": 1}
    write(path.with_name("dwi_mask.nii.gz"), volume.data > 20, volume.affine)
    assert preprocess(tmp_path / "source", tmp_path / "store", SPEC, masks=rules).rejected == {"bad_gradients": 1}


def test_masks_are_settings_of_the_store(source: Path, tmp_path: Path):
    preprocess(source, tmp_path / "store", SPEC, masks=RULES)
    with pytest.raises(StoreError, match=r"other settings \(masks .*face.* -> None"):
        preprocess(source, tmp_path / "store", SPEC)
    preprocess(source, tmp_path / "plain", SPEC)
    with pytest.raises(StoreError, match=r"other settings \(masks None -> .*face"):
        preprocess(source, tmp_path / "plain", SPEC, masks=RULES)


def test_a_killed_run_goes_on_to_the_same_bytes(source: Path, tmp_path: Path, contents, killed_run):
    preprocess(source, tmp_path / "whole", SPEC, masks=RULES)
    for after in (1, -1):
        killed_run(source, tmp_path / "killed", SPEC, after, masks=RULES)
    preprocess(source, tmp_path / "killed", SPEC, masks=RULES)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_store_made_scan_by_scan_keeps_flags_too(tmp_path: Path, make_ball):
    volume = make_ball(0)
    with StoreWriter.create(tmp_path / "store", SPEC) as writer:
        writer.add(ScanRow("A", "sub_1", "ses_1", "t1", T1), canonicalise(volume, SPEC, ~front(volume)))
    store = Store.open(tmp_path / "store")
    assert store.has_masks
    assert store.index.column("valid_share")[0].as_py() < 1
