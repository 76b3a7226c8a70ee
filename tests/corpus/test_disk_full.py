"""A disk that is really full: one line, no store, and the next run ends in the store of an undisturbed one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.imaging.canonical import CanonicalSpec

SCRIPT = """
mount -t tmpfs -o size="$1" tmpfs "$3"
"$5" -m fomo_ssl.preprocess source="$2" store="$3/store" spacing=2 workers=2
echo "exit code $?"
test -e "$3/store/store.json" && echo "there is a store"
mount -o remount,size=64m "$3"
"$5" -m fomo_ssl.preprocess source="$2" store="$3/store" spacing=2 workers=2 && cp -r "$3/store" "$4"
"""


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    tree: Path, tmp_path: Path, contents: Callable, own_mounts: Callable[..., subprocess.CompletedProcess[str]]
):
    preprocess(tree, tmp_path / "whole", CanonicalSpec(2.0))
    whole = contents(tmp_path / "whole")
    room = sum(map(len, whole.values())) // 3
    (tmp_path / "disk").mkdir()
    done = own_mounts(SCRIPT, room, tree, tmp_path / "disk", tmp_path / "after", sys.executable)
    assert "exit code 2" in done.stdout
    assert "there is a store" not in done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"fomo_ssl: {tmp_path / 'disk/store'}: no space left on the device. Free space")
    assert contents(tmp_path / "after") == whole
