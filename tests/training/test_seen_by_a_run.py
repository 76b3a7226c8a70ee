from pathlib import Path

import pytest
from training_runs import small_run

from fomo_ssl.bundle import load_seen
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.scan import digest_file
from fomo_ssl.corpus.store import Store
from fomo_ssl.imaging.nifti import write
from fomo_ssl.synthetic.phantoms import phantom
from fomo_ssl.training.source import CropSource, DataConfig


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of five subjects of two datasets with two sequences, and their store."""
    source, store = (tmp_path_factory.mktemp("seen") / name for name in ("source", "store"))
    for subject in range(5):
        for sequence in ("t1", "flair"):
            scan = phantom(subject, (24, 24, 24), sequence)
            dataset = "PT001_A" if subject < 3 else "PT002_B"
            write(source / dataset / f"sub_{subject}" / "ses_1" / f"{sequence}.nii.gz", scan.data, scan.affine)
    preprocess(source, store, workers=1)
    return source, store


def test_the_bundle_knows_its_training_subjects_and_no_others(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    source, store = corpus
    seen = load_seen(small_run(store, tmp_path / "run", samples=4).bundle)
    assert seen is not None
    rows = Store.open(store).index.select(["dataset", "subject", "path"]).to_pylist()
    named = {row["path"] for row in rows if seen.recognise(row["dataset"], row["subject"], []) == "subject"}
    by_file = {row["path"] for row in rows if seen.recognise("", "", [digest_file(source / row["path"])]) == "file"}
    assert len(seen.subjects) == 4
    assert len(seen.files) == len(by_file) == 8
    assert named == by_file


def test_subjects_of_weight_zero_are_not_known(corpus: tuple[Path, Path]) -> None:
    store = corpus[1]
    first = Store.open(store).index.column("dataset")[0].as_py()

    def known(**weights: dict[str, float]) -> int:
        data = DataConfig(held_out=0, workers=0, **weights)  # type: ignore[arg-type]
        return len(CropSource.open(store, data, ViewSpec(), (16, 16, 16), 0).seen().files)

    assert known() == 10
    assert known(sequence_weights={"flair": 0.0}) == 10  # a partner of the t1 in paired crops
    assert known(dataset_weights={first: 2.0}) == 10
    assert known(dataset_weights={first: 0.0}) == 4
