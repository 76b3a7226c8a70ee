import errno
from pathlib import Path

import pytest

from fomo_ssl.core.errors import FomoSSLError, Reason, RejectedScan, StoreError, entry, is_disk_full


def test_message_is_one_line_with_where_and_way_out():
    error = StoreError("no\nstore.json here", where="a/b", way_out="Run fomo_ssl.preprocess first.")
    assert str(error) == "a/b: no store.json here. Run fomo_ssl.preprocess first"


def test_every_reason_is_explained():
    page = (Path(__file__).parents[2] / "docs/reference/store.md").read_text(encoding="utf-8")
    assert [reason.value for reason in Reason if f"| `{reason.value}`" not in page] == []


def test_rejected_scan_keeps_the_typed_reason():
    error = RejectedScan(Reason.TRUNCATED, "half of the voxels missing", where="x.nii")
    assert (error.reason, error.detail) == (Reason.TRUNCATED, "half of the voxels missing")
    assert str(error).startswith("x.nii: truncated: half")


def raising(error: BaseException):
    @entry
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FomoSSLError("wrong"), 2),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "full", "f"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2),
        (OSError(errno.EROFS, "Read-only file system", "f"), 2),
    ],
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        raising(error)()
    assert stop.value.code == code
    printed = capsys.readouterr().err
    assert printed.startswith("fomo_ssl: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("bug", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "f")])
def test_bugs_keep_their_traceback(bug: Exception):
    with pytest.raises(type(bug)):
        raising(bug)()


def test_a_path_that_cannot_be_used_is_one_line_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis").touch()
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "run"):
        with pytest.raises(SystemExit) as stop:
            entry(path.mkdir)()
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith(f"fomo_ssl: {path}: ")


def test_disk_full_is_seen_through_a_chain():
    outer = RuntimeError("could not save")
    outer.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_disk_full(outer)
    assert not is_disk_full(OSError(errno.ENOENT, "missing"))
