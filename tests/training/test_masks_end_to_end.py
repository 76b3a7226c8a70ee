"""A real scan with a face mask, from the files to the loss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fomo_ssl.core.types import Views
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.loader import make_loader
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import Volume, read, write
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.objectives import Objective, create_objective
from fomo_ssl.objectives.base import mask_to_voxels
from fomo_ssl.training.source import CropSource, DataConfig

CROP = (48, 48, 48)


@pytest.fixture(scope="module")
def defaced(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one real T1 whose face was cut away, as defacing does it, with the mask of what was cut beside it."""
    source = tmp_path_factory.mktemp("defaced") / "source"
    (source / "sub_1/ses_1").mkdir(parents=True)
    scan = read(real_data / "fomo_flat/sub_15/ses_1/t1.nii.gz")
    face = np.zeros(scan.data.shape, bool)
    view = to_ras(Volume(face, scan.affine)).data
    _, y, z = view.shape
    view[:, int(0.62 * y) :, : int(0.5 * z)] = True
    write(source / "sub_1/ses_1/t1.nii.gz", np.where(face, 0, scan.data), scan.affine)
    write(source / "sub_1/ses_1/t1_facemask.nii.gz", face, scan.affine)
    preprocess(source, source.with_name("store"), CanonicalSpec(2.0), masks={"deface": "{stem}_facemask.nii.gz"})
    return source.with_name("store")


def objective_of(**arguments: bool) -> Objective:
    torch.manual_seed(0)
    encoder = create_encoder("resenc_t", channels=(4, 8), blocks=(1, 1))
    return create_objective("mae", encoder, **arguments).eval()


def views_of(store: Path, objective: Objective, preset: str) -> Views:
    source = CropSource.open(store, DataConfig(held_out=0.0), objective.views, CROP, seed=0)
    loader = make_loader(source.store, source.sampler, batch_size=4, start=0, stop=4, workers=0)
    return Augmenter(preset)(next(iter(loader)))


def test_what_was_cut_away_is_what_does_not_count(defaced: Path) -> None:
    store = Store.open(defaced)
    share = store.index.column("valid_share")[0].as_py()
    assert 0.7 < share < 0.95
    objective = objective_of()
    views = views_of(defaced, objective, "none")
    (valid,), background = views.valid, store.index.column("background")[0].as_py()
    scale, offset = (store.index.column(name)[0].as_py() for name in ("scale", "offset"))
    gone = views.targets[0][~valid]
    assert len(gone) > 1000
    # Cut to 0 before interpolation: nothing but its edge shows more than empty space.
    assert (gone - (background * scale + offset)).abs().median() < 2 * scale
    assert views.targets[0][valid].mean() > gone.mean() + 0.3


@pytest.mark.parametrize("preset", ["none", "all"])
def test_the_loss_does_not_see_it(defaced: Path, preset: str) -> None:
    objective = objective_of()
    views = views_of(defaced, objective, preset)
    (valid,) = views.valid
    output = objective(views, 0)
    hidden = mask_to_voxels(objective.masks(views, 0)[0], objective.mask_unit, CROP)
    assert (hidden & ~valid).any()
    for counts in (False, True):
        other = replace(views, targets=[views.targets[0] + 5.0 * (hidden & (valid == counts))])
        assert torch.equal(objective(other, 0).loss, output.loss) != counts
        assert torch.equal(objective(other, 0).health["mae/explained"], output.health["mae/explained"]) != counts


def test_without_the_mask_it_is_the_loss_of_a_store_without_masks(defaced: Path, tmp_path: Path) -> None:
    source = defaced.with_name("source")
    (tmp_path / "source/sub_1/ses_1").mkdir(parents=True)
    (tmp_path / "source/sub_1/ses_1/t1.nii.gz").write_bytes((source / "sub_1/ses_1/t1.nii.gz").read_bytes())
    preprocess(tmp_path / "source", tmp_path / "store", CanonicalSpec(2.0))
    asking, silent = objective_of(), objective_of(loss_mask=False)
    plain = views_of(tmp_path / "store", asking, "all")
    assert plain.valid is None
    ignored = views_of(defaced, silent, "all")
    assert ignored.valid is None
    assert torch.equal(ignored.images[0], plain.images[0])
    assert torch.equal(asking(plain, 0).loss, silent(ignored, 0).loss)
    assert not torch.equal(asking(views_of(defaced, asking, "all"), 0).loss, asking(plain, 0).loss)
