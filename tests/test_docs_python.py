"""Every python block of the documentation runs, those of a page in order and in one namespace, as in a notebook.

The files and folders that the blocks name stand in for yours: a store of generated scans, bundles with random weights.
The tutorials make their own, and are run from top to bottom by tests/test_docs.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stores import phantom_store
from test_docs import PAGES, TUTORIALS, blocks

from fomo_ssl.bundle import BundleConfig, InputContract, save_bundle
from fomo_ssl.core.types import Views
from fomo_ssl.downstream.models import TaskModel, TaskSpec, save_model
from fomo_ssl.encoders import create_encoder
from fomo_ssl.encoders.base import encoders
from fomo_ssl.encoders.foreign import mednext, swinunetr
from fomo_ssl.imaging.nifti import write
from fomo_ssl.objectives.base import objectives
from fomo_ssl.synthetic.phantoms import phantom

DOCS = [page for page in PAGES if page.name != "README.md"]
WITH_PYTHON = [page for page in DOCS if any(block.language == "python" for block in blocks(page))]
RUN_HERE = [page for page in WITH_PYTHON if page not in TUTORIALS]
SLOW = {"synthetic_study"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the blocks name."""
    root = tmp_path_factory.mktemp("docs")
    phantom_store(root / "store", subjects=8, edge=32)
    for name, sequence in (("scan", "t1"), ("t1", "t1"), ("flair", "flair"), ("dwi", "dwi_b1000"), ("swi", "swi")):
        scan = phantom(0, (32, 32, 32), sequence)
        write(root / f"{name}.nii.gz", scan.data, scan.affine)
    contract = InputContract(("t1",), spacing=None, max_upsample=2.0, crop=(32, 32, 32))
    for run in ("first", "pretrain"):
        config = BundleConfig("unet_t", {}, 1, contract, {})
        save_bundle(root / "runs" / run / "bundle", create_encoder("unet_t"), config)
    unit = "runs/meningioma/units/shots20_seed0_pretrained/bundle"
    for folder, sequences in (("bundle", ("flair",)), (unit, ("flair", "dwi_b1000", "swi"))):
        task = TaskSpec("meningioma", "segmentation", sequences, 2, (32, 32, 32), None, 2.0, True)
        save_model(root / folder, TaskModel(create_encoder("unet_t", len(sequences)), task), {})
    torch.save({"state_dict": create_encoder("unet_t").state_dict()}, root / "last.ckpt")
    swinunetr.write(create_encoder("swin_t"), root / "out")
    mednext.write(create_encoder("mednext_s"), root / "mednext")
    return root


def given(page: Path) -> dict[str, Any]:
    """Values that the text around a block introduces."""
    scan = torch.from_numpy(phantom(0, (32, 32, 32)).data)[None, None]
    x = (scan - scan.mean()) / scan.std()
    if page.stem == "bundle":
        return {"x": x}
    if page.stem == "objectives":
        keys, row = torch.arange(2), torch.zeros(1, 2, dtype=torch.int64)
        two = x.expand(2, -1, -1, -1, -1)
        paired = torch.ones(2, dtype=torch.bool)
        views = Views(images=[two], targets=[two], keys=keys, spacing=torch.ones(2, 3), sequences=row, paired=paired)
        return {"views": views, "step": 0, "encoder": create_encoder("unet_t"), "x": x, "sigma": torch.ones(1)}
    return {}


@pytest.fixture
def registries() -> Iterator[None]:
    """Names that a page registers are gone afterwards."""
    before = [(registry._builders, dict(registry._builders)) for registry in (encoders, objectives)]
    yield
    for builders, known in before:
        builders.clear()
        builders.update(known)


def test_nothing_unmarked_is_skipped() -> None:
    python = [(page, block) for page in DOCS for block in blocks(page) if block.language == "python"]
    assert len(python) == sum(len(re.findall(r"^\s*```python", page.read_text(), re.MULTILINE)) for page in DOCS)
    skipped = [page for page, block in python if not block.marked and page not in {*RUN_HERE, *TUTORIALS}]
    assert skipped == []


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else (), id=p.stem) for p in RUN_HERE]
)
def test_the_python_of_a_page_runs(page: Path, world: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    namespace: dict[str, Any] = {"__name__": "notebook", **given(page)}
    for block in blocks(page):
        if block.language == "python" and not block.marked:
            exec(compile(block.text, page.name, "exec"), namespace)
