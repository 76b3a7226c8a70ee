import json
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.bundle import BundleConfig, InputContract, load_seen, load_weights, save_bundle
from fomo_ssl.core.errors import BundleError
from fomo_ssl.core.seen import SeenData, file_id, subject_id
from fomo_ssl.corpus.scan import digest_file
from fomo_ssl.downstream.checks import file_digests
from fomo_ssl.downstream.finetune import finetune
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.seen import SeenCases, find_seen, to_line
from fomo_ssl.downstream.splits import cross_validation, few_shot_splits
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.encoders import create_encoder
from fomo_ssl.report.provenance import describe
from fomo_ssl.report.runs import read_run

ARGUMENTS = {"channels": (4, 8, 8), "blocks": (1, 1, 1)}
QUICK = Recipe(steps=2, batch_size=2, crop=(16, 16, 16), precision="32-true", switches={"flip": False})


def bundle_of(path: Path, files: list[Path], subjects: list[tuple[str, str]] = []) -> Path:  # noqa: B006 - read only
    numbers = np.array([subject_id(*pair) for pair in subjects], dtype=np.uint64).view(np.int64)
    digests = np.array([file_id(digest_file(file)) for file in files], dtype=np.int64)
    contract = InputContract(("t1",), 1.0, 2.0, (16, 16, 16))
    config = BundleConfig("resenc_t", ARGUMENTS, 1, contract, {})
    save_bundle(
        path, create_encoder("resenc_t", 1, **ARGUMENTS), config, seen=SeenData(np.sort(numbers), np.unique(digests))
    )
    return path


def test_a_run_says_whom_the_encoder_knows(make_task, tmp_path, capsys):
    task = load_task(make_task("segmentation", 6))
    splits = few_shot_splits(task, [1, 2], 1, n_test=2)
    known = [splits[0].test[1], splits[1].train[0]]
    bundle = bundle_of(tmp_path / "bundle", [task[name].images["t1"] for name in known])
    run = tmp_path / "run"
    finetune(task=task, splits=splits, run=run, recipe=QUICK, bundle=bundle, parallel=1, scratch=False)
    said = capsys.readouterr().err
    assert "1 of 2 test cases and 1 of 2 training cases are of subjects that the encoder was pretrained on" in said
    record = json.loads((run / "run.json").read_text())
    assert record["seen_in_pretraining"] == {"cases": dict.fromkeys(sorted(known), "file"), "complete": True}
    assert record["inits"] == ["pretrained"]
    assert any(note.startswith("1 of 2 test cases are of subjects") for note in describe(read_run(run))["notes"])


def test_a_bundle_that_does_not_say_is_said(make_task, bundle, tmp_path, capsys):
    task = load_task(make_task("segmentation", 4))
    splits, run = few_shot_splits(task, [1], 1, n_test=1), tmp_path / "run"
    assert load_seen(bundle) is None
    finetune(task=task, splits=splits, run=run, recipe=QUICK, bundle=bundle, parallel=1)
    assert "pretrained on" not in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["seen_in_pretraining"] is None
    assert "which subjects the encoder was pretrained on is not recorded" in describe(read_run(run))["notes"]


def test_a_damaged_list_is_one_line(tmp_path):
    bundle = bundle_of(tmp_path / "bundle", [])
    load_weights(bundle)
    (bundle / "pretraining" / "seen.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError, match=r"damaged.*seen\.safetensors"):
        load_seen(bundle)


def test_real_tasks_beside_the_real_corpus(real_data: Path, tmp_path: Path) -> None:
    """What the README of the data says: all subjects of both tasks are in the corpus; the lesions' files are its own,
    the brains are cut out of it.
    """
    files = sorted((real_data / "fomo_flat").glob("**/flair.nii.gz"))
    lesions = load_task(real_data / "tasks" / "wm_lesions")
    splits = cross_validation(lesions, 7, 1)
    seen = find_seen(lesions.cases, file_digests(lesions.cases), bundle_of(tmp_path / "files", files))
    assert seen is not None
    assert seen.cases == dict.fromkeys((case.name for case in lesions.cases), "file")
    assert to_line("wm", splits, seen).startswith("wm: 14 of 14 test cases and 14 of 14 training cases")
    age = load_task(real_data / "tasks" / "brain_age")
    digests = file_digests(age.cases)
    assert find_seen(age.cases, digests, bundle_of(tmp_path / "others", files)) == SeenCases({}, True)
    nichart = [("NiChart_demo", f"sub_{i}") for i in range(1, 15)]
    seen = find_seen(age.cases, digests, bundle_of(tmp_path / "subjects", [], nichart))
    assert seen is not None
    assert seen.cases == {case.name: "subject" for case in age.cases if case.dataset == "NiChart_demo"}
    assert len(seen.cases) == 14


def test_a_run_continued_with_some_of_its_splits_forgets_nobody(make_task, tmp_path):
    task = load_task(make_task("segmentation", 6))
    splits = few_shot_splits(task, [1, 2], 1, n_test=2)
    bundle = bundle_of(tmp_path / "bundle", [case.images["t1"] for case in task.cases])
    for part in (splits, splits[:1]):
        finetune(task=task, splits=part, run=tmp_path / "run", recipe=QUICK, bundle=bundle, parallel=1, resume="auto")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["seen_in_pretraining"]["cases"]) == {*splits[1].train, *splits[1].test}
