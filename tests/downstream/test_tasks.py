import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fomo_ssl.core.errors import RejectedScan, TaskError
from fomo_ssl.downstream.cases import load_example
from fomo_ssl.downstream.tasks import find_kind, load_task
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import read, write


@pytest.mark.parametrize(("kind", "classes"), [("segmentation", 3), ("classification", 2), ("regression", 1)])
def test_kind_is_inferred_and_said(make_task, kind, classes):
    task = load_task(make_task(kind, 4))
    assert (task.kind, task.classes, task.sequences, len(task.cases)) == (kind, classes, ("t1",), 4)
    assert any("inferred" in note for note in task.notes)


def test_task_yaml_goes_before_inference(make_task):
    root = make_task("classification", 4)
    (root / "task.yaml").write_text("name: ages\nkind: regression\nsequences: [t1]\n")
    task = load_task(root)
    assert (task.name, task.kind, task.classes) == ("ages", "regression", 1)
    assert find_kind(root) == "regression"


def test_one_sequence_needs_no_list(make_task):
    root = make_task("regression", 2, ("flair", "t1"))
    (root / "task.yaml").write_text("sequences: t1\n")
    assert load_task(root).sequences == ("t1",)


def test_whole_numbers_with_gaps_are_no_classes(make_task):
    root = make_task("classification", 2)
    for number, age in enumerate((34, 71)):
        (root / f"labels/sub_{number}/ses_1/label.txt").write_text(str(age))
    assert find_kind(root) == "regression"


def test_label_may_lie_beside_the_sessions(make_task):
    root = make_task("classification", 2)
    for number in range(2):
        folder = root / f"labels/sub_{number}"
        shutil.move(folder / "ses_1/label.txt", folder / "label.txt")
    assert [case.label for case in load_task(root).cases] == [0, 1]


def test_masks_beside_numbers_are_the_label_of_a_segmentation_only(make_task):
    root, masks = make_task("classification", 4), make_task("segmentation", 4)
    for place in ("labels/sub_1/ses_1", "labels/sub_3/ses_1"):
        shutil.copy(masks / place / "seg.nii.gz", root / place)
    assert find_kind(root) == load_task(root).kind == "classification"
    assert load_task(root, kind="classification").labels == [0, 1, 0, 1]
    with pytest.raises(TaskError, match="the label '0' is no mask"):
        load_task(root, kind="segmentation")
    for place in ("labels/sub_0/ses_1", "labels/sub_2/ses_1"):
        shutil.copy(masks / place / "seg.nii.gz", root / place)
    assert load_task(root, kind="segmentation").classes == 3
    (root / "task.yaml").write_text("kind: segmentation\n")
    assert find_kind(root) == load_task(root).kind == "segmentation"


def test_participants_give_the_dataset(make_task):
    root = make_task("regression", 2)
    (root / "participants.tsv").write_text("participant_id\tdataset\nsub_0\tIXI\nsub_1\tother\n")
    assert [case.dataset for case in load_task(root).cases] == ["IXI", "other"]


def test_missing_sequence_states_policy_and_way_out(make_task):
    root = make_task("segmentation", 3, ("flair", "t1"))
    (root / "preprocessed/sub_1/ses_1/flair.nii.gz").unlink()
    with pytest.raises(TaskError, match=r"sub_1_ses_1 has no flair; the policy .* is error.*missing=skip"):
        load_task(root)
    skipped = load_task(root, missing="skip")
    assert [case.subject for case in skipped.cases] == ["sub_0", "sub_2"]
    assert any("skipped" in note for note in skipped.notes)
    zeros = load_task(root, missing="zeros")
    prepared = load_example(zeros["sub_1_ses_1"], zeros.sequences, CanonicalSpec(crop_foreground=False)).prepared
    assert not prepared.image[0].any()
    assert prepared.image[1].any()


@pytest.mark.parametrize(
    ("sequence", "value", "shift", "message"),
    [
        ("flair", 7.0, 0.0, "flair.nii.gz: constant: every voxel is 7"),
        ("t1", 7.0, 0.0, "t1.nii.gz: constant: every voxel is 7"),
        ("t1", None, 500.0, "t1.nii.gz: constant: nothing of it lies where the first sequence does"),
    ],
)
def test_a_sequence_that_shows_nothing_is_named_and_not_taken_for_missing(make_task, sequence, value, shift, message):
    task = load_task(make_task("segmentation", 1, ("flair", "t1")))
    path = task.cases[0].images[sequence]
    scan = read(path)
    affine = scan.affine.copy()
    affine[2, 3] += shift
    write(path, scan.data if value is None else np.full_like(scan.data, value), affine)
    with pytest.raises(RejectedScan, match=message):
        load_example(task.cases[0], task.sequences, CanonicalSpec(crop_foreground=False))


def test_every_sequence_is_normalised_as_the_form_says(make_task):
    task = load_task(make_task("segmentation", 1, ("flair", "t1")))
    spec = CanonicalSpec(crop_foreground=False, normalisation="zscore_volume")
    image = load_example(task.cases[0], task.sequences, spec).prepared.image
    np.testing.assert_allclose(image.mean((1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(image.std((1, 2, 3)), 1, atol=1e-3)


def test_alternatives_take_the_sequence_that_is_there(make_task):
    root = make_task("segmentation", 2, ("swi", "t1"))
    shutil.move(root / "preprocessed/sub_1/ses_1/swi.nii.gz", root / "preprocessed/sub_1/ses_1/t2s.nii.gz")
    task = load_task(root, sequences=["t1", "swi|t2s"])
    assert [case.images["swi|t2s"].name for case in task.cases] == ["swi.nii.gz", "t2s.nii.gz"]


def test_unlabelled_sessions_are_left_out_and_said(make_task):
    root = make_task("regression", 3)
    (root / "labels/sub_2/ses_1/label.txt").unlink()
    task = load_task(root)
    assert len(task.cases) == 2
    assert any("no label" in note for note in task.notes)


def test_no_labels_no_root_no_layout(make_task, tmp_path):
    root = make_task("regression", 2)
    shutil.rmtree(root / "labels")
    with pytest.raises(TaskError, match=f"{root}: no labels"):
        load_task(root)
    with pytest.raises(TaskError, match="no such task"):
        load_task(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match="neither"):
        load_task(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("old", "regression", "no number"),
        ("nan", "regression", "no number"),
        ("0.5", "classification", "no class index"),
    ],
)
def test_labels_that_cannot_be_read(make_task, text, kind, message):
    root = make_task("regression", 2)
    (root / "labels/sub_0/ses_1/label.txt").write_text(text)
    with pytest.raises(TaskError, match=message):
        load_task(root, kind=kind)


def test_bad_task_yaml(make_task):
    root = make_task("regression", 2)
    (root / "task.yaml").write_text("knid: regression\n")
    with pytest.raises(TaskError, match="unknown keys knid"):
        load_task(root)
    for text in ("- t1\n", "classes: two\n"):
        (root / "task.yaml").write_text(text)
        with pytest.raises(TaskError, match="no keys with values, or classes is no whole number"):
            load_task(root)
    (root / "task.yaml").write_text("kind: survival\n")
    with pytest.raises(TaskError, match="'survival' is not known"):
        load_task(root)


def test_nnunet_raw_dataset(tmp_path, make_task):
    source = make_task("segmentation", 2, ("t1", "flair"))
    root = tmp_path / "Dataset001_Balls"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number in range(2):
        for channel, sequence in enumerate(("t1", "flair")):
            image = source / f"preprocessed/sub_{number}/ses_1/{sequence}.nii.gz"
            shutil.copy(image, root / f"imagesTr/ball_{number}_{channel:04d}.nii.gz")
        shutil.copy(source / f"labels/sub_{number}/ses_1/seg.nii.gz", root / f"labelsTr/ball_{number}.nii.gz")
    description = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "a": 1, "b": 2}}
    (root / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii.gz"}))
    task = load_task(root)
    assert (task.kind, task.sequences, task.classes) == ("segmentation", ("t1", "flair"), 3)
    assert [case.name for case in task.cases] == ["ball_0", "ball_1"]


def test_sessions_of_an_nnunet_dataset_belong_to_their_subject(tmp_path, make_task):
    source, root = make_task("segmentation", 1), tmp_path / "Dataset002_Sessions"
    names = ["sub-01_ses-1", "sub-01_ses-2", "sub-02", "case_3"]
    for folder, suffix, file in (
        ("imagesTr", "_0000", "preprocessed/sub_0/ses_1/t1"),
        ("labelsTr", "", "labels/sub_0/ses_1/seg"),
    ):
        (root / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(source / f"{file}.nii.gz", root / folder / f"{name}{suffix}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": {"a": 1, "b": 2}}))
    cases = load_task(root).cases
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": {"a": 1, "ignore": 2}}))
    with pytest.raises(TaskError, match="a label to ignore"):
        load_task(root)
    assert [(case.name, case.subject) for case in cases] == [
        ("case_3", "case_3"),
        ("sub-01_ses-1", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("sub-02", "sub-02"),
    ]


def test_table_of_paths(make_task, tmp_path):
    make_task("classification", 2)
    rows = [f"task_classification/preprocessed/sub_{n}/ses_1/t1.nii.gz,{n}" for n in range(2)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,label", *rows]))
    task = load_task(table)
    assert (task.name, task.kind, task.sequences) == ("table", "classification", ("t1",))
    assert [case.subject for case in task.cases] == ["sub_0", "sub_1"]
    table.write_text("image,label\nnowhere/t1.nii.gz,1\n")
    with pytest.raises(TaskError, match="no such image"):
        load_task(table)
    table.write_text("path,label\na,1\n")
    with pytest.raises(TaskError, match="columns path, label"):
        load_task(table)


def test_images_of_a_table_may_lie_anywhere(make_task, tmp_path):
    images = make_task("classification", 2) / "preprocessed"
    elsewhere = tmp_path / "subjects" / "tables"
    elsewhere.mkdir(parents=True)
    (images / "sub_1/ses_1/t1.nii.gz").rename(elsewhere.parent / "sub-7_t1.nii.gz")
    table = elsewhere / "table.csv"
    table.write_text(f"image,label\n{images / 'sub_0/ses_1/t1.nii.gz'},0\n../sub-7_t1.nii.gz,1\n")
    assert sorted(case.subject for case in load_task(table).cases) == ["sub-7", "sub_0"]


@pytest.mark.parametrize(("shape", "shift", "message"), [((20, 24, 17), 0.0, "shape"), ((20, 24, 18), 3.0, "3.0 mm")])
def test_mask_off_its_image_is_refused(make_task, shape, shift, message):
    root = make_task("segmentation", 2)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[2, 3] = shift
    mask = np.zeros(shape, np.uint8)
    mask[8:12, 8:12, 8:12] = 1
    write(root / "labels/sub_0/ses_1/seg.nii.gz", mask, affine)
    task = load_task(root)
    with pytest.raises(TaskError, match=message):
        load_example(task.cases[0], task.sequences, CanonicalSpec(crop_foreground=False))


def test_mask_with_fractions_is_refused(make_task):
    root = make_task("segmentation", 2)
    write(root / "labels/sub_0/ses_1/seg.nii.gz", np.full((20, 24, 18), 0.4, np.float32), np.eye(4))
    with pytest.raises(TaskError, match="no class indices"):
        load_task(root)


def test_a_class_that_no_mask_holds_is_refused(make_task):
    root = make_task("segmentation", 3)
    for label in root.glob("labels/*/*/seg.nii.gz"):
        mask = read(label)
        write(label, np.where(mask.data > 0, 255, 0).astype(np.uint8), mask.affine)
    with pytest.raises(TaskError, match=r"seg\.nii\.gz: class 255 is there, class 1 is in no label"):
        load_task(root)


def test_a_class_that_no_case_has_is_refused_unless_stated(make_task):
    root = make_task("classification", 4)
    for label in root.glob("labels/*/*/label.txt"):
        label.write_text(str(2 * int(label.read_text())))
    with pytest.raises(TaskError, match="class 2 is there, class 1 is in no label"):
        load_task(root, kind="classification")
    (root / "task.yaml").write_text("kind: classification\nclasses: 3\n")
    assert load_task(root).classes == 3


def test_a_label_beyond_the_stated_classes_is_named(make_task):
    root = make_task("classification", 4)
    (root / "labels/sub_3/ses_1/label.txt").write_text("2")
    (root / "task.yaml").write_text("kind: classification\nclasses: 2\n")
    with pytest.raises(TaskError, match="sub_3_ses_1: label 2 is no class of a task that states 2"):
        load_task(root)


def test_cases_are_found_by_name_without_a_walk(make_task):
    task = load_task(make_task("regression", 3))
    assert task["sub_1_ses_1"] is task.cases[1]
    assert task._by_name is task._by_name
    assert pickle.loads(pickle.dumps(task)) == task == replace(task)


def test_real_tasks(real_data):
    hippocampus = load_task(real_data / "tasks/hippocampus")
    assert (hippocampus.kind, hippocampus.classes, len(hippocampus.cases)) == ("segmentation", 3, 120)
    sex = load_task(real_data / "tasks/sex.csv")
    assert (sex.kind, sex.classes) == ("classification", 2)
    assert sum(case.label == 1 for case in sex.cases) == 11
    ages = load_task(real_data / "tasks/brain_age")
    assert ages.kind == "regression"
    assert sorted({case.dataset for case in ages.cases}) == ["IXI", "NiChart_demo"]
    spec = CanonicalSpec(1.0, crop_foreground=False)
    for case in hippocampus.cases[:10]:
        example = load_example(case, hippocampus.sequences, spec)
        assert example.mask.shape == example.prepared.image.shape[1:]
        assert np.array_equal(np.bincount(example.mask.ravel()), np.bincount(example.drawn_mask.ravel()))
