from pathlib import Path

import pytest
from stores import phantom_store

from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.store import StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.synthetic.phantoms import phantom


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects with two sequences each, 24 voxels a side."""
    return phantom_store(tmp_path_factory.mktemp("pretrain") / "store", subjects=5, edge=24)


@pytest.fixture(scope="session")
def labelled_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen subjects, each with two sequences, a sex and an age; 16 voxels a side."""
    path = tmp_path_factory.mktemp("labelled") / "store"
    spec = CanonicalSpec(spacing=None)
    with StoreWriter.create(path, spec) as writer:
        for subject in range(14):
            metadata = Metadata(age=20.0 + subject, sex="FM"[subject % 2])
            for sequence in ("t1", "flair"):
                row = ScanRow("site", f"sub_{subject}", "ses_1", sequence, f"sub_{subject}/{sequence}.nii.gz")
                writer.add(row, canonicalise(phantom(subject, (16, 16, 16), sequence), spec), metadata)
    return path


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the number of every step that is taken."""
    from fomo_ssl.training.module import PretrainModule

    taken: list[int] = []
    plain = PretrainModule.training_step

    def counted(module: PretrainModule, batch: object, batch_idx: int) -> object:
        taken.append(module.global_step)
        return plain(module, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(PretrainModule, "training_step", counted)
    return taken
