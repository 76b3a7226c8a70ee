from pathlib import Path

import pytest

from fomo_ssl.core.files import atomic_file, atomic_folder, remove_strays, write_json, write_text


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
