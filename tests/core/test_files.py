import errno
import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fomo_ssl.core.files import atomic_file, atomic_folder, exclusive, remove_strays, write_json, write_text


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.bin"
    with atomic_file(target) as file:
        file.write(b"12")
        assert not target.exists()
        file.write(b"34")
    assert target.read_bytes() == b"1234"
    assert names(target.parent) == {"a.bin"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError), atomic_file(tmp_path / "a") as file:
        file.writelines([b"new", 3])  # fails after the first
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "f") as folder:
            (folder / content).mkdir()
            (folder / content / "x").write_text(content)
    assert names(tmp_path / "f") == {"new"}
    assert names(tmp_path) == {"f"}


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(TypeError), atomic_folder(tmp_path / "f") as folder:
        (folder / "y").write_text(3)
    assert names(tmp_path / "f") == {"x"}
    assert names(tmp_path) == {"f"}


def test_strays_of_any_process_are_removed(tmp_path: Path) -> None:
    write_json(tmp_path / "kept.json", {"b": 1, "a": "é"})
    (tmp_path / ".a.ckpt.partial-99999").write_text("torn")
    (tmp_path / ".bundle.partial-99998").mkdir()
    (tmp_path / ".bundle.partial-99998" / "x").write_text("torn")
    (tmp_path / ".hidden").write_text("somebody's")
    remove_strays(tmp_path)
    assert names(tmp_path) == {"kept.json", ".hidden"}
    assert (tmp_path / "kept.json").read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'


def test_writers_with_one_process_number_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two nodes or two containers that write one file of a shared disk."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    with atomic_file(tmp_path / "a") as first:
        first.write(b"first")
        write_text(tmp_path / "a", "second")
        assert (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first"
    with atomic_folder(tmp_path / "f") as folder:
        (folder / "x").touch()
        with atomic_folder(tmp_path / "f") as other:
            (other / "y").touch()
    assert names(tmp_path / "f") == {"x"}
    assert names(tmp_path) == {"a", "f"}


HOLD = """
import sys
from pathlib import Path
from fomo_ssl.core.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_process_and_no_file_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), exclusive(tmp_path, patience=0.2):
            pass
        assert names(tmp_path) == set()
        threading.Thread(target=lambda: (time.sleep(0.3), other.kill())).start()
        with exclusive(tmp_path, patience=30.0):  # a process that was killed holds nothing
            pass


def test_a_folder_that_cannot_be_locked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Linux gives EBADF for the folder of a network file system, whose locks need a file that is open for writing."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)
    entered = []
    with exclusive(tmp_path):
        entered.append(True)
    assert entered
    assert "cannot be locked here" in capsys.readouterr().err
