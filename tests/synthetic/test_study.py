import csv
import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.imaging.nifti import read
from fomo_ssl.imaging.orientation import orientation
from fomo_ssl.synthetic import StudySpec, generate_corpus, generate_task
from fomo_ssl.synthetic.plan import TaskName, corpus_visits, task_visits

SPEC = StudySpec(subjects=6, cases=4, spacing_mm=6.0, seed=7)


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_corpus(tmp_path_factory.mktemp("study") / "corpus", SPEC, workers=2)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tasks")
    names = ("infarct", "meningioma", "brain_age")
    return {name: generate_task(root / name, name, 4, SPEC, workers=2) for name in names}


def test_bytes_do_not_depend_on_workers(corpus: Path, tasks: dict[str, Path], tmp_path: Path) -> None:
    again = generate_corpus(tmp_path / "corpus", SPEC, workers=1)
    assert digests(again) == digests(corpus)
    task = generate_task(tmp_path / "meningioma", "meningioma", 4, SPEC, workers=3)
    assert digests(task) == digests(tasks["meningioma"])


def test_another_seed_is_another_population(tasks: dict[str, Path], tmp_path: Path) -> None:
    other = digests(generate_task(tmp_path / "a", "brain_age", 2, SPEC, seed=8))
    mine = digests(tasks["brain_age"])
    images = [name for name in other if name.endswith(".nii.gz")]
    assert images
    assert all(other[name] != mine[name] for name in images)


def test_the_corpus_has_the_tables_of_fomo60k(corpus: Path) -> None:
    people, scans, sources = (table(corpus / f"{n}.tsv") for n in ("participants", "mri_info", "mapping"))
    assert list(people[0]) == ["participant_id", "session_id", "age", "sex", "dataset", "group"]
    assert len({p["participant_id"] for p in people}) == SPEC.subjects
    assert any(p["session_id"] == "ses_2" for p in people)
    on_disk = {str(p.relative_to(corpus)) for p in corpus.rglob("*.nii.gz")}
    assert {f"{s['participant_id']}/{s['session_id']}/{s['filename']}" for s in scans} == on_disk
    assert [s["filename"] for s in sources] == [s["filename"] for s in scans]
    assert len(scans) == SPEC.sequences * len(people)


def test_the_tables_tell_the_truth_about_the_files(corpus: Path) -> None:
    for row in table(corpus / "mri_info.tsv"):
        path = corpus / row["participant_id"] / row["session_id"] / row["filename"]
        volume = read(path)
        assert "x".join(map(str, volume.data.shape)) == row["shape"]
        np.testing.assert_allclose(volume.spacing, [float(s) for s in row["spacing_mm"].split("x")], rtol=1e-4)
        assert orientation(volume.affine) == row["orientation"]
        assert (volume.data.min(), volume.data.max()) == (float(row["min"]), float(row["max"]))
        assert path.stat().st_size == int(row["bytes"])


def test_the_second_site_differs_in_grid_and_orientation(corpus: Path) -> None:
    rows = table(corpus / "mri_info.tsv")
    assert {r["orientation"] for r in rows} == {"LAS", "PSR"}
    thick = {r["spacing_mm"] for r in rows if r["orientation"] == "PSR"}
    assert thick >= {"6x7.5x6", "6x12x6"}


def test_task_folders_have_images_labels_and_a_description(tasks: dict[str, Path]) -> None:
    import yaml

    for name, root in tasks.items():
        text = yaml.safe_load((root / "task.yaml").read_text())
        assert text["name"] == name
        assert text["missing"] == "error"
        for case in range(1, 5):
            folder = root / "preprocessed" / f"sub_t{case}" / "ses_1"
            assert sorted(p.name for p in folder.iterdir()) == sorted(f"{s}.nii.gz" for s in text["sequences"])
            volumes = [read(p) for p in folder.iterdir()]
            assert all(v.data.shape == volumes[0].data.shape for v in volumes)
            assert all(np.allclose(v.affine, volumes[0].affine) for v in volumes)


def test_a_mask_lies_on_its_images_grid_and_on_bright_enhancement(tasks: dict[str, Path]) -> None:
    root = tasks["meningioma"]
    for case in range(1, 5):
        mask = read(root / "labels" / f"sub_t{case}" / "ses_1" / "seg.nii.gz")
        image = read(root / "preprocessed" / f"sub_t{case}" / "ses_1" / "t1c.nii.gz")
        assert np.array_equal(mask.affine, image.affine)
        assert set(np.unique(mask.data)) == {0.0, 1.0}
        inside = image.data[mask.data == 1]
        assert np.median(inside) > 1.3 * np.median(image.data[image.data > np.quantile(image.data, 0.6)])


def test_no_subject_of_a_task_passes_for_one_of_the_corpus() -> None:
    """Finetuning recognises subjects by dataset and name."""
    spec = StudySpec(subjects=50)
    corpus = {visit.participant for visit in corpus_visits(spec)}
    for task in get_args(TaskName):
        assert not corpus & {visit.participant for visit in task_visits(task, 50, spec.spacing_mm, 0)}


def test_classes_are_balanced_and_ages_spread(tasks: dict[str, Path]) -> None:
    labels = [p.read_text() for p in sorted((tasks["infarct"] / "labels").rglob("label.txt"))]
    assert sorted(labels) == ["0\n", "0\n", "1\n", "1\n"]
    ages = sorted(float(p.read_text()) for p in (tasks["brain_age"] / "labels").rglob("label.txt"))
    for quarter, age in enumerate(ages):
        assert 20 + 17.5 * quarter <= age <= 20 + 17.5 * (quarter + 1)


def test_a_finished_study_is_left_alone_and_a_foreign_folder_refused(tmp_path: Path) -> None:
    small = StudySpec(subjects=1, sequences=1, spacing_mm=8.0)
    seen: list[tuple[int, int]] = []
    root = generate_corpus(tmp_path / "c", small, on_case=lambda done, total: seen.append((done, total)))
    generate_corpus(root, small, on_case=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    generate_corpus(root, StudySpec(subjects=2, sequences=1, spacing_mm=8.0))
    assert (root / "sub_2").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for mark in (None, "no json", "[1]", '{"name": "the study of somebody else"}'):
        if mark is not None:
            (tmp_path / "mine" / "study.json").write_text(mark)
        with pytest.raises(FomoSSLError, match="no generated study"):
            generate_corpus(tmp_path / "mine", small)
        assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("wrong", [{"spacing_mm": 0.5}, {"sequences": 9}, {"subjects": 0}])
def test_a_specification_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(FomoSSLError, match="choose"):
        StudySpec(**wrong)
