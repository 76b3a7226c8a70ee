"""An encoder of one's own by the command line: the code of the guide, in a folder that is no package."""

import os
import re
import subprocess
import sys
from pathlib import Path

from stores import phantom_store

from fomo_ssl.bundle import load_config
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic.phantoms import phantom

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "add_encoder.md"


def fomo(folder: Path, *words: object, plugins: str = "my_nets") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FOMO_SSL_IMPORT": plugins, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_module_of_one_s_own_is_known_to_every_command(tmp_path: Path) -> None:
    code = re.search(r"```python\n(from collections.*?)```", GUIDE.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "my_nets.py").write_text(code[1])
    (tmp_path / "conf" / "encoder").mkdir(parents=True)
    (tmp_path / "conf" / "encoder" / "my_net.yaml").write_text("name: my_net\nchannels: [4, 8]\n")
    phantom_store(tmp_path / "store", subjects=3, edge=24)
    words = ["--config-dir=conf", "store=store", "run=run", "encoder=my_net", "health.enabled=false"]
    words += ["crop=16", "batch_size=2", "budget.samples=2", "data.workers=0"]
    done = fomo(tmp_path, "fomo_ssl.pretrain", *words)
    assert done.returncode == 0, done.stderr
    assert load_config(tmp_path / "run" / "bundle").encoder == "my_net"
    scan = phantom(5, (24, 24, 24))
    write(tmp_path / "scans" / "sub_1" / "t1.nii.gz", scan.data, scan.affine)
    words = ["--bundle", "run/bundle", "scans", "--output", "found.parquet"]
    done = fomo(tmp_path, "fomo_ssl.embed", *words)
    assert done.returncode == 0, done.stderr
    done = fomo(tmp_path, "fomo_ssl.embed", *words, plugins="")
    assert done.returncode == 2
    assert "FOMO_SSL_IMPORT" in done.stderr
    done = fomo(tmp_path, "fomo_ssl.embed", *words, plugins="my_nests")
    assert done.returncode == 2
    assert "FOMO_SSL_IMPORT names my_nests, which cannot be imported" in done.stderr
