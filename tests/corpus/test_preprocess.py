import csv
import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fomo_ssl.core.errors import Reason, RejectedScan, StoreError
from fomo_ssl.corpus.journal import Journal
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.scan import Outcome, check_slices
from fomo_ssl.corpus.store import Store
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import Volume, read, write

SPEC = CanonicalSpec(2.0)


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory) -> Path:
    """The store of an undisturbed run."""
    path = tmp_path_factory.mktemp("whole") / "store"
    preprocess(tree, path, SPEC)
    return path


def column(store: Path, name: str) -> list:
    return Store.open(store).index.column(name).to_pylist()


def test_every_scan_is_accepted_or_quarantined_with_its_reason(tree: Path, whole: Path):
    assert column(whole, "path") == [
        "sub_1/ses_1/flair.nii.gz",
        "sub_1/ses_1/t1.nii.gz",
        "sub_1/ses_2/t1.nii.gz",
        "sub_10/ses_1/t2.nii.gz",
        "sub_2/ses_1/dwi_b1000.nii.gz",
        "sub_2/ses_1/t1.nii.gz",
    ]
    assert column(whole, "age") == [45, 45, None, None, 25, 25]
    assert column(whole, "dataset") == ["Alpha", "Alpha", "source", "source", "Beta", "Beta"]
    lines = list(csv.DictReader((whole / "quarantine.csv").read_text().splitlines()))
    assert [(line["path"], line["reason"]) for line in lines] == [("sub_2/ses_1/swi.nii.gz", "not_nifti")]
    assert {path.name for path in whole.iterdir()} == {
        "store.json",
        "index.arrow",
        "scans",
        "quarantine.csv",
        "summary.html",
    }
    page = (whole / "summary.html").read_text()
    assert "6 scans" in page
    assert page.count("data:image/png") == 4
    assert not re.search(r"https?://", page)
    assert 'name="viewport"' in page
    assert page.count("<table>") == page.count('<div class="scroll"><table>')


def test_more_workers_give_the_same_bytes(tree: Path, whole: Path, tmp_path: Path, contents):
    console = Console(file=(tmp_path / "shown").open("w"), width=120)
    summary = preprocess(tree, tmp_path / "two", SPEC, workers=2, console=console)
    console.file.close()
    assert contents(tmp_path / "two") == contents(whole)
    assert (summary.accepted, summary.rejected, summary.processed) == (6, {"not_nifti": 1}, 7)
    assert "1 rejected: not_nifti" in (tmp_path / "shown").read_text()


def test_a_second_run_works_on_nothing_and_new_scans_are_added(tree: Path, whole: Path, tmp_path, make_ball, contents):
    before = contents(whole)
    assert preprocess(tree, whole, SPEC).processed == 0
    assert contents(whole) == before
    tree, whole = shutil.copytree(tree, tmp_path / "source"), shutil.copytree(whole, tmp_path / "store")
    volume = make_ball(99)
    (tree / "sub_3/ses_1").mkdir(parents=True)
    write(tree / "sub_3/ses_1/t1.nii.gz", volume.data, volume.affine)
    (tree / "sub_1/ses_2/t1.nii.gz").unlink()
    (tree / "participants.tsv").write_text("participant_id\tage\nsub_3\t61\n")
    summary = preprocess(tree, whole, SPEC)
    assert (summary.accepted, summary.processed) == (6, 1)
    assert column(whole, "age")[-1] == 61
    assert len(list((whole / "scans").rglob("*.b2nd"))) == 6


def test_killed_again_and_again_the_store_gets_the_same_bytes(
    tree: Path, whole: Path, tmp_path: Path, contents, killed_run
):
    store = tmp_path / "killed"
    for after in (1, 4, -1):
        killed_run(tree, store, SPEC, after)
    preprocess(tree, store, SPEC)
    assert contents(store) == contents(whole)


def test_what_was_committed_is_not_done_again(tree: Path, whole: Path, tmp_path: Path, contents, monkeypatch):
    """The disk fills up at the third commit: one line, the first two stay, and the next run goes on from there."""
    commit, calls = Journal.commit, []

    def full(self, outcomes):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")
        commit(self, outcomes)

    store = tmp_path / "full"
    monkeypatch.setattr("fomo_ssl.corpus.preprocess._SHARD_SCANS", 2)
    # By number alone: a slow machine would commit more often.
    monkeypatch.setattr("fomo_ssl.corpus.preprocess._SHARD_SECONDS", float("inf"))
    monkeypatch.setattr(Journal, "commit", full)
    with pytest.raises(StoreError, match="no space left on the device") as caught:
        preprocess(tree, store, SPEC)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="no finished store"):
        Store.open(store)
    monkeypatch.setattr(Journal, "commit", commit)
    assert preprocess(tree, store, SPEC).processed == 3
    assert contents(store) == contents(whole)


@pytest.mark.parametrize("change", [{"spec": CanonicalSpec(3.0)}, {"min_slices": 10}])
def test_other_settings_are_refused(tree: Path, whole: Path, change: dict):
    with pytest.raises(StoreError, match=r"other settings.*Give another store"):
        preprocess(tree, whole, **({"spec": SPEC} | change))


def test_a_file_that_could_not_be_opened_is_tried_again(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def locked(path: Path, max_voxels: int) -> Volume:
        if path.name == "t2.nii.gz":
            raise RejectedScan(Reason.UNREADABLE, os.strerror(errno.EACCES), where=path)
        return read(path)

    with monkeypatch.context() as without_permission:
        without_permission.setattr("fomo_ssl.corpus.scan.read", locked)
        in_process = lambda function, jobs, workers: (function(job) for job in jobs)  # noqa: E731
        without_permission.setattr("fomo_ssl.corpus.preprocess.run_local", in_process)
        summary = preprocess(tree, tmp_path / "store", SPEC)
    assert summary.rejected == {"not_nifti": 1, "unreadable": 1}
    assert preprocess(tree, tmp_path / "store", SPEC).rejected == {"not_nifti": 1}
    assert column(tmp_path / "store", "path") == column(whole, "path")


def test_a_verdict_on_a_former_file_does_not_hide_that_on_the_present_one(tmp_path: Path):
    row = ScanRow("", "sub_1", "ses_1", "t1", "sub_1/ses_1/t1.nii.gz")
    for writer, size, reason in (("task00000_", 100, "truncated"), ("", 200, "bad_gzip")):
        Journal(tmp_path, SPEC, {}, writer).commit([Outcome(row, size, None, reason)])
    _, rejected = Journal(tmp_path, SPEC, {}).finished({row.path: 200})
    assert [(line.source_bytes, line.reason) for line in rejected] == [(200, "bad_gzip")]


def test_tasks_that_start_at_once_do_not_write_the_same_file(tmp_path: Path):
    Journal(tmp_path, SPEC, {})
    plan = tmp_path / "journal/plan.json"
    before = plan.stat().st_ino
    Journal(tmp_path, SPEC, {}, writer="task00000_")
    assert plan.stat().st_ino == before


def test_two_runs_at_once_are_refused(tree: Path, tmp_path: Path):
    import fcntl

    (tmp_path / "busy").mkdir()
    descriptor = os.open(tmp_path / "busy", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(StoreError, match="another run"):
            preprocess(tree, tmp_path / "busy", SPEC)
    finally:
        os.close(descriptor)


def test_all_rejected(tmp_path: Path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(StoreError, match=r"all 1 scans were rejected.*quarantine.csv"):
        preprocess(tmp_path / "source", tmp_path / "store", SPEC)
    assert "empty_file" in (tmp_path / "store" / "quarantine.csv").read_text()


def test_few_slices(make_ball):
    check_slices(make_ball(0), 20)
    with pytest.raises(RejectedScan, match="at least 21"):
        check_slices(make_ball(0), 21)


def test_large_files_are_refused_unless_allowed(tree: Path, tmp_path: Path, contents) -> None:
    """A true scan above the limit has a way in: the same command with a higher one tries it again."""
    source = shutil.copytree(tree, tmp_path / "source")
    scan = read(source / "sub_1/ses_1/t1.nii.gz")
    write(source / "sub_1/ses_1/t1.nii.gz", np.pad(scan.data, 4), scan.affine)
    summary = preprocess(source, tmp_path / "store", SPEC, max_voxels=scan.data.size + 1)
    assert summary.rejected == {"not_nifti": 1, "too_large": 1}
    lines = csv.DictReader((tmp_path / "store" / "quarantine.csv").read_text().splitlines())
    assert [line["path"] for line in lines if "header claims" in line["detail"]] == ["sub_1/ses_1/t1.nii.gz"]
    preprocess(source, tmp_path / "store", SPEC)
    preprocess(source, tmp_path / "whole", SPEC)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
