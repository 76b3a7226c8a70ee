from pathlib import Path

import pytest

from fomo_ssl import data_report
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.synthetic.phantoms import phantom


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with StoreWriter.create(tmp_path / "store", CanonicalSpec(None)) as writer:
        for seed in range(2):
            row = ScanRow("A", f"sub_{seed}", "ses_1", "t1", f"sub_{seed}/t1.nii.gz")
            writer.add(row, canonicalise(phantom(seed), CanonicalSpec(None)))
    return tmp_path / "store"


def test_the_command_writes_the_page_the_flags_and_says_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "page.html"
    data_report.main(["--store", str(store), "--output", str(output), "--workers", "1"])
    assert {path.name for path in output.parent.iterdir()} == {"page.html", "data_flags.csv"}
    assert f"{output}\n{output.parent / 'data_flags.csv'}\n" in capsys.readouterr().out
    assert (tmp_path / "store.quality").is_dir()


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        data_report.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.splitlines()[-1].startswith("fomo_ssl: ")
    return err.splitlines()[-1]


def test_mistakes_are_one_line_and_exit_code_2(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no finished store" in mistake(capsys, "--store", str(tmp_path / "nowhere"))
    assert "--store" in mistake(capsys)
    assert "--workers" in mistake(capsys, "--store", str(store), "--workers", "0")
    assert "is a folder" in mistake(capsys, "--store", str(store), "--output", str(tmp_path))


def test_one_changed_byte_is_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_report.main(["--store", str(store), "--verify", "--workers", "1"])
    assert capsys.readouterr().out == "2 scan files are what was written\n"
    changed, lost = (store / name for name in sorted(Store.open(store).index.column("file").to_pylist()))
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    lost.unlink()
    with pytest.raises(SystemExit) as stop:
        data_report.main(["--store", str(store), "--verify", "--workers", "2"])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{changed}: not the bytes that were written",
        f"{lost}: no such file or directory",
    ]
    assert said.err.splitlines()[-1].startswith(f"fomo_ssl: {store}: 2 of 2 scan files are missing or not what was")
    assert not store.with_name("store.quality").exists()


def test_a_damaged_scan_is_named(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = store / Store.open(store).index.column("file")[0].as_py()
    file.write_bytes(b"nonsense")
    output = tmp_path / "page.html"
    line = mistake(capsys, "--store", str(store), "--output", str(output), "--workers", "1")
    assert file.name in line
    assert not output.exists()
