import numpy as np
import pytest
import torch

from fomo_ssl.bundle import ReleasedEncoder, load_encoder
from fomo_ssl.core.errors import TaskError
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.downstream import probe
from fomo_ssl.downstream.probe import cross_validate, probe_bundle
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import Volume

GENERATOR = np.random.default_rng(0)
FEATURES = GENERATOR.normal(size=(40, 6))
SUBJECTS = [f"sub_{i // 2}" for i in range(40)]


def metric(kind: str, labels: np.ndarray, name: str) -> float:
    columns = cross_validate(FEATURES, labels, SUBJECTS, kind)
    ids = tuple(str(i) for i in range(len(labels)))
    return Predictions(kind, ids, ids, ("",) * len(labels), columns).metric(name)


def test_what_the_embedding_holds_is_found_and_noise_is_not():
    assert metric("regression", FEATURES[:, 0] * 10 + 50, "pearson") > 0.95
    assert metric("classification", (FEATURES[:, 1] > 0).astype(float), "auroc") > 0.9
    noise = GENERATOR.normal(size=20).repeat(2)
    assert metric("regression", noise, "mae") > 0.9 * np.abs(noise - noise.mean()).mean()
    assert abs(metric("classification", (noise > 0).astype(float), "auroc") - 0.5) < 0.35


def test_no_fold_sees_the_subject_it_predicts():
    # The embedding tells subjects apart and nothing else: a leak would predict each scan from its subject's other one.
    features = np.eye(20).repeat(2, axis=0) * 5
    labels = GENERATOR.normal(size=20).repeat(2)
    columns = cross_validate(features, labels, SUBJECTS, "regression")
    assert np.abs(columns["prediction"] - labels).mean() > 0.9 * np.abs(labels - labels.mean()).mean()


def test_probe_of_a_task(make_task, bundle):
    result = probe_bundle(bundle, make_task("regression", 6))
    assert (result.metric, result.n) == ("mae", 6)
    assert result.low <= result.value <= result.high
    with pytest.raises(TaskError, match="segmentation"):
        probe_bundle(bundle, load_task(make_task("segmentation", 6)))


def test_a_case_that_lacks_a_sequence_is_named(make_task, bundle):
    root = make_task("regression", 6, ("flair", "t1"))
    (root / "preprocessed/sub_1/ses_1/flair.nii.gz").unlink()
    with pytest.raises(TaskError, match="sub_1_ses_1 has no flair"):
        probe_bundle(bundle, load_task(root, missing="zeros"))


@pytest.mark.parametrize("sequences", [("t1", "flair"), ("t1",)])
def test_probe_of_a_store(tmp_path, bundle, sequences):
    from fomo_ssl.corpus.metadata import Metadata

    with StoreWriter.create(tmp_path / "store") as writer:
        for subject in range(6):
            for sequence in sequences:
                data = np.zeros((20, 20, 20), np.float32)
                bright = 100.0 if sequence == "t1" else 40.0
                data[4:16, 4:16, 4:16] = bright + GENERATOR.normal(size=(12, 12, 12)) * (3 if sequence == "t1" else 15)
                canonical = canonicalise(Volume(data, np.eye(4)), CanonicalSpec())
                row = ScanRow("set", f"sub_{subject}", "ses_1", sequence, f"{subject}_{sequence}.nii.gz")
                writer.add(row, canonical, Metadata(age=30.0 + subject))
    result = probe_bundle(bundle, None, tmp_path / "store")
    assert result.target.startswith("sequence" if len(sequences) == 2 else "age")
    assert result.n == 6


def test_a_sequence_too_rare_to_be_drawn_is_left_out(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(probe, "MAX_SCANS", 16)
    with StoreWriter.create(tmp_path / "store") as writer:
        for sequence, count in (("t1", 20), ("flair", 20), ("swi", 5)):
            for subject in range(count):
                data = np.zeros((20, 20, 20), np.float32)
                data[4:16, 4:16, 4:16] = 100.0 + GENERATOR.normal(size=(12, 12, 12))
                row = ScanRow("set", f"sub_{subject}", "ses_1", sequence, f"{subject}_{sequence}.nii.gz")
                writer.add(row, canonicalise(Volume(data, np.eye(4)), CanonicalSpec()))
    assert probe_bundle(bundle, None, tmp_path / "store").target == "sequence (t1, flair)"


def test_a_store_of_another_normalisation_is_refused(tmp_path, bundle):
    with StoreWriter.create(tmp_path / "store", CanonicalSpec(normalisation="zscore_volume")):
        pass
    with pytest.raises(TaskError, match="stored as zscore_volume, the encoder expects zscore_foreground"):
        probe_bundle(bundle, None, tmp_path / "store")


def test_probe_without_anything_to_predict(bundle):
    with pytest.raises(TaskError, match="a task or a store"):
        probe_bundle(bundle, None)


def test_crops_of_a_store_go_where_the_encoder_is(tmp_path, bundle, monkeypatch):
    with StoreWriter.create(tmp_path / "store") as writer:
        data = np.zeros((20, 20, 20), np.float32)
        data[4:16, 4:16, 4:16] = 100.0 + GENERATOR.normal(size=(12, 12, 12))
        canonical = canonicalise(Volume(data, np.eye(4)), CanonicalSpec())
        writer.add(ScanRow("set", "sub_1", "ses_1", "t1", "t1.nii.gz"), canonical)
    seen = []
    monkeypatch.setattr(ReleasedEncoder, "forward", lambda self, x: seen.append(x.device.type) or torch.zeros(1, 2))
    probe._embed_row(load_encoder(bundle).to("meta"), Store.open(tmp_path / "store"), 0)
    assert seen == ["meta"]
