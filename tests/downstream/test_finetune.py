import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fomo_ssl.bundle import BundleConfig, InputContract, load_config, load_weights, save_bundle
from fomo_ssl.core.errors import BundleError, NonFiniteLossError, RunError, TaskError
from fomo_ssl.downstream import inference
from fomo_ssl.downstream.batches import BatchStream, TaskBatch
from fomo_ssl.downstream.cases import load_example
from fomo_ssl.downstream.finetune import _plan, finetune, largest_crop
from fomo_ssl.downstream.inference import predict_case, predict_mask
from fomo_ssl.downstream.losses import dice_cross_entropy
from fomo_ssl.downstream.models import TaskModel, TaskSpec, forked_generators, load_model, pretrained_encoder
from fomo_ssl.downstream.module import FinetuneModule
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.scores import read_csv
from fomo_ssl.downstream.splits import cross_validation, few_shot_splits
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.downstream.unit import predict_examples, recipe_of
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import read
from fomo_ssl.report.provenance import fingerprints
from fomo_ssl.report.runs import read_run

QUICK = Recipe(steps=4, batch_size=2, crop=(16, 16, 16), lr=3e-3, precision="32-true", switches={"flip": False})


def run_small(make_task, bundle, run: Path, kind: str = "segmentation", recipe: Recipe = QUICK, **options):
    root = make_task(kind, 6, options.pop("sequences", ("t1",))) if not options.get("task") else None
    task = options.pop("task", None) or load_task(root)
    splits = options.pop("splits", None) or few_shot_splits(task, [1, 2], 1, n_test=2)
    rows = finetune(task=task, splits=splits, run=run, recipe=recipe, bundle=bundle, parallel=1, **options)
    return task, splits, rows


def unit_files(run: Path) -> dict[str, bytes]:
    kept = ("predictions.csv", "curve.csv", "encoder.safetensors", "head.safetensors", "task.json")
    return {str(f.relative_to(run)): f.read_bytes() for f in sorted(run.glob("units/**/*")) if f.name in kept}


@pytest.mark.parametrize("kind", ["segmentation", "classification", "regression"])
def test_every_kind_from_bundle_to_table(make_task, bundle, tmp_path, kind):
    run = tmp_path / "run"
    task, _, rows = run_small(make_task, bundle, run, kind)
    for unit in ("shots1_seed0_pretrained", "shots2_seed0_scratch"):
        result = json.loads((run / "units" / unit / "result.json").read_text())
        table = read_csv(run / "units" / unit / "predictions.csv", kind)
        for name, interval in result["metrics"].items():
            assert interval["value"] == pytest.approx(table.metric(name), nan_ok=True)
        assert (run / "units" / unit / "curve.csv").read_text().count("\n") == 5
    assert {row.setting for row in rows} == {"1 shot", "2 shots"}
    assert all(row.pretrained and row.scratch and row.difference for row in rows)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert json.loads((run / "summary.json").read_text())[0]["task"] == task.name


def test_prediction_from_the_bundle_is_the_tested_one(make_task, bundle, tmp_path):
    affine = np.array([[0.0, -1.0, 0.0, 5.0], [0.0, 0.0, 1.3, -3.0], [-0.9, 0.0, 0.0, 8.0], [0.0, 0.0, 0.0, 1.0]])
    root = make_task("segmentation", 4, affine=affine)
    task = load_task(root)
    splits = few_shot_splits(task, [2], 1, n_test=2)
    run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=replace(QUICK, mirror=("x",)))
    unit = tmp_path / "run/units/shots2_seed0_pretrained"
    result = json.loads((unit / "result.json").read_text())
    assert load_model(unit / "bundle").spec.mirror == ("x",)
    for picture in result["pictures"]["best"]:
        image = task[picture["case"]].images["t1"]
        mask = predict_case(unit / "bundle", {"t1": image})
        assert mask.shape == read(image).data.shape
        written = read(unit / picture["prediction"])
        assert np.array_equal(mask, written.data)
        assert np.allclose(written.affine, affine, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pool", "maps"),
    [
        ("classification", "mean", "last"),
        ("regression", "attention", "all"),
        ("classification", "topk", "last"),
        ("regression", "lse", "all"),
    ],
)
def test_numbers_from_the_bundle_are_the_tested_ones(make_task, bundle, tmp_path, kind, pool, maps):
    recipe = replace(QUICK, pool=pool, pool_maps=maps)
    task, _, _ = run_small(make_task, bundle, tmp_path / "run", kind, recipe)
    unit = tmp_path / "run/units/shots2_seed0_pretrained"
    assert load_model(unit / "bundle").spec.pool == pool
    table = read_csv(unit / "predictions.csv", kind)
    for row, name in enumerate(table.cases):
        value = predict_case(unit / "bundle", task[name].images)
        assert value == pytest.approx(float(table.columns["prediction"][row]), rel=1e-6)


def test_twins_differ_in_the_encoder_s_weights_alone(make_task, bundle, tmp_path, monkeypatch):
    seen: dict[str, list[torch.Tensor]] = {}
    original = BatchStream.batch

    def spy(self: BatchStream, step: int):
        batch = original(self, step)
        seen.setdefault("keys", []).append(batch.keys)
        seen.setdefault("images", []).append(batch.images)
        return batch

    monkeypatch.setattr(BatchStream, "batch", spy)
    task = load_task(make_task("segmentation", 6))
    still = replace(QUICK, lr=0.0)
    run_small(
        make_task, bundle, tmp_path / "run", task=task, recipe=still, splits=few_shot_splits(task, [2], 1, n_test=2)
    )
    assert len(seen["keys"]) == 8
    for k in range(4):
        assert torch.equal(seen["keys"][k], seen["keys"][k + 4])
        assert torch.equal(seen["images"][k], seen["images"][k + 4])
    models = [load_model(tmp_path / f"run/units/shots2_seed0_{arm}/bundle") for arm in ("pretrained", "scratch")]
    heads = [model.head.state_dict() for model in models]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    stems = [model.encoder.state_dict()[f"{model.encoder.stem}.weight"] for model in models]
    assert not torch.equal(*stems)


def test_run_is_the_same_again_and_resumes_by_unit(make_task, bundle, tmp_path):
    task, splits, _ = run_small(make_task, bundle, tmp_path / "one")
    again = {"task": task, "splits": splits}
    run_small(make_task, bundle, tmp_path / "two", grad_checkpointing=True, **again)
    assert unit_files(tmp_path / "one") == unit_files(tmp_path / "two")
    # A unit that was killed before its result.json is done again; a finished one is not touched.
    lost = tmp_path / "two/units/shots1_seed0_scratch"
    (lost / "result.json").unlink()
    (lost / "predictions.csv").write_text("torn")
    kept = tmp_path / "two/units/shots2_seed0_scratch/result.json"
    before = kept.stat().st_mtime_ns
    run_small(make_task, bundle, tmp_path / "two", resume="auto", **again)
    assert unit_files(tmp_path / "one") == unit_files(tmp_path / "two")
    assert kept.stat().st_mtime_ns == before


def test_a_run_of_other_values_is_not_mixed_in(make_task, bundle, tmp_path):
    task, splits, _ = run_small(make_task, bundle, tmp_path / "run")
    options = {"task": task, "splits": splits}
    with pytest.raises(RunError, match="not empty"):
        run_small(make_task, bundle, tmp_path / "run", **options)
    with pytest.raises(RunError, match=r"training\.steps"):
        run_small(make_task, bundle, tmp_path / "run", resume="auto", recipe=replace(QUICK, steps=5), **options)


def test_a_bundle_that_was_replaced_is_not_mixed_in(make_task, bundle, tmp_path):
    recipe = replace(QUICK, steps=1)
    task, splits, _ = run_small(make_task, bundle, tmp_path / "run", "regression", recipe, scratch=False)
    options = {"task": task, "splits": splits, "recipe": recipe, "scratch": False, "resume": "auto"}
    fingerprint = fingerprints(read_run(tmp_path / "run"))["bundle"]
    torch.manual_seed(1)
    config = load_config(bundle)
    save_bundle(bundle, create_encoder(config.encoder, **config.encoder_args), config)
    with pytest.raises(RunError, match="other weights than when the run began"):
        run_small(make_task, bundle, tmp_path / "run", **options)
    # The report tells what was trained from, not what lies there now.
    assert fingerprints(read_run(tmp_path / "run"))["bundle"] == fingerprint
    # A run from before did not keep it, and is gone on with as it was.
    record = json.loads((tmp_path / "run/run.json").read_text())
    del record["bundle_digest"]
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    run_small(make_task, bundle, tmp_path / "run", **options)


def test_pictures_are_found_from_another_folder(make_task, bundle, tmp_path, monkeypatch):
    root = make_task("segmentation", 4)
    monkeypatch.chdir(tmp_path)
    task = load_task(root.relative_to(tmp_path))
    splits = few_shot_splits(task, [1], 1, n_test=2)
    recipe = replace(QUICK, steps=1)
    run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=recipe, scratch=False)
    result = json.loads((tmp_path / "run/units/shots1_seed0_pretrained/result.json").read_text())
    monkeypatch.chdir("/")
    for entry in result["pictures"]["worst"]:
        assert Path(entry["image"]).is_file()
        assert Path(entry["label"]).is_file()


def test_a_subject_called_by_a_path_overwrites_nothing(make_task, bundle, tmp_path):
    root = make_task("segmentation", 3)
    rows = ["image,label,subject"]
    for number in range(3):
        stem = root / f"preprocessed/sub_{number}/ses_1/t1"
        rows.append(f"{stem}.nii.gz,{root}/labels/sub_{number}/ses_1/seg.nii.gz,{stem}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    before = {file: file.read_bytes() for file in root.rglob("*.nii.gz")}
    task = load_task(tmp_path / "table.csv")
    splits, recipe = few_shot_splits(task, [1], 1, n_test=2), replace(QUICK, steps=1)
    run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=recipe, scratch=False)
    assert {file: file.read_bytes() for file in root.rglob("*.nii.gz")} == before
    unit = tmp_path / "run/units/shots1_seed0_pretrained"
    pictures = json.loads((unit / "result.json").read_text())["pictures"]["best"]
    assert len({entry["prediction"] for entry in pictures}) == 2
    assert all((unit / entry["prediction"]).is_file() for entry in pictures)


def test_interrupt_leaves_the_unit_unfinished(make_task, bundle, tmp_path, monkeypatch):
    original = BatchStream.batch

    def interrupted(self: BatchStream, step: int):
        if step == 2:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(BatchStream, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_small(make_task, bundle, tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("units/*/result.json"))
    task = load_task(tmp_path / "task_segmentation")
    splits = few_shot_splits(task, [1, 2], 1, n_test=2)
    run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, resume="auto")
    assert len(list((tmp_path / "run").glob("units/*/result.json"))) == 4


@pytest.mark.slow
def test_side_by_side_gives_the_same_results(make_task, bundle, tmp_path):
    task = load_task(make_task("segmentation", 6))
    splits = few_shot_splits(task, [1], 1, n_test=2)
    run_small(make_task, bundle, tmp_path / "one", task=task, splits=splits)
    finetune(task=task, splits=splits, run=tmp_path / "two", recipe=QUICK, bundle=bundle, parallel=2)
    assert unit_files(tmp_path / "one") == unit_files(tmp_path / "two")


def test_cross_validation_pools_the_folds(make_task, bundle, tmp_path):
    root = make_task("regression", 6)
    people = "".join(f"sub_{n}\t{'AB'[n % 2]}\n" for n in range(6))
    (root / "participants.tsv").write_text("participant_id\tdataset\n" + people)
    task = load_task(root)
    recipe = replace(QUICK, steps=2)
    splits = cross_validation(task, 2)
    _, _, rows = run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=recipe)
    assert {(row.setting, row.dataset, row.pretrained.n) for row in rows} == {
        ("cross-validation", "all", 6),
        ("cross-validation", "A", 3),
        ("cross-validation", "B", 3),
    }


def test_a_seed_that_lacks_folds_is_left_out_of_the_table(make_task, bundle, tmp_path):
    task = load_task(make_task("regression", 6))
    options = {"task": task, "recipe": replace(QUICK, steps=1)}
    run_small(make_task, bundle, tmp_path / "run", splits=cross_validation(task, 2, 2), **options)
    # As a kill leaves it, gone on with fewer seeds.
    (tmp_path / "run/units/fold1_seed1_scratch/result.json").unlink()
    splits = cross_validation(task, 2, 1)
    _, _, rows = run_small(make_task, bundle, tmp_path / "run", splits=splits, resume="auto", **options)
    assert [(row.metric, row.difference.n) for row in rows] == [("mae", 6), ("pearson", 6)]
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("fusion", ["early", "late", "concat", "separate"])
def test_several_sequences_from_a_one_sequence_bundle(make_task, bundle, tmp_path, fusion):
    task = load_task(make_task("segmentation", 4, ("flair", "t1")))
    splits = few_shot_splits(task, [1], 1, n_test=1)
    recipe = replace(QUICK, steps=2, fusion=fusion)
    run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=recipe)
    case = task[splits[0].test[0]]
    mask = predict_case(tmp_path / "run/units/shots1_seed0_pretrained/bundle", case.images)
    assert mask.shape == read(case.images["flair"]).data.shape


def test_a_mask_with_more_classes_than_the_task_is_named(make_task, bundle, tmp_path):
    root = make_task("segmentation", 4)
    (root / "task.yaml").write_text("kind: segmentation\nclasses: 2\n")
    task = load_task(root)
    with pytest.raises(TaskError, match=r"seg\.nii\.gz: label 2 is no class of a task that states 2"):
        run_small(make_task, bundle, tmp_path / "run", task=task, splits=few_shot_splits(task, [1], 1, n_test=1))


def test_equal_targets_keep_the_unit_of_the_label(make_task, bundle, tmp_path):
    root = make_task("regression", 4)
    for label in root.glob("labels/*/*/label.txt"):
        label.write_text("30.1")
    task = load_task(root)
    assert np.std([30.1] * 3) > 0
    splits, recipe = few_shot_splits(task, [3], 1, n_test=1), replace(QUICK, steps=1)
    run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=recipe, scratch=False)
    assert load_model(tmp_path / "run/units/shots3_seed0_pretrained/bundle").spec.target_std == 1.0


@pytest.mark.parametrize(("limit", "crop"), [(96, (24, 24, 24)), (20, (16, 16, 16)), (4, (8, 8, 8))])
def test_the_crop_holds_every_case_within_the_limit(make_task, limit, crop):
    # 20 x 24 x 18 voxels
    task = load_task(make_task("regression", 2))
    assert largest_crop(task, CanonicalSpec(1.0, crop_foreground=False), (8, 8, 8), limit) == crop


def test_scratch_alone_needs_an_encoder(make_task, tmp_path):
    task = load_task(make_task("segmentation", 4))
    splits = few_shot_splits(task, [1], 1, n_test=1)
    with pytest.raises(RunError, match="encoder=NAME"):
        finetune(task=task, splits=splits, run=tmp_path / "run", recipe=QUICK, bundle=None)
    rows = finetune(
        task=task,
        splits=splits,
        run=tmp_path / "run",
        recipe=replace(QUICK, steps=1),
        bundle=None,
        encoder="unet_t",
        encoder_args={"channels": (4, 8)},
        parallel=1,
    )
    assert all(row.pretrained is None and row.difference is None and row.scratch for row in rows)


def test_the_bundles_normalisation_goes_all_the_way(make_task, bundle, tmp_path):
    config = bundle / "config.json"
    config.write_text(config.read_text().replace("zscore_foreground", "zscore_volume"))
    recipe = replace(QUICK, steps=1)
    run_small(make_task, bundle, tmp_path / "run", recipe=recipe, scratch=False)
    kept = tmp_path / "run/units/shots1_seed0_pretrained/bundle"
    assert load_model(kept).spec.canonical.normalisation == "zscore_volume"
    assert load_config(kept).input.normalisation == "zscore_volume"


def test_training_learns_the_task(make_task, bundle, tmp_path):
    task = load_task(make_task("segmentation", 6))
    recipe = replace(QUICK, steps=60, crop=None, lr=1e-2, ema=0.9, validate_every=30)
    splits = few_shot_splits(task, [3], 1, n_test=2, n_validation=1)
    _, _, rows = run_small(make_task, bundle, tmp_path / "run", task=task, splits=splits, recipe=recipe, scratch=False)
    assert rows[0].pretrained.value > 0.8
    lines = (tmp_path / "run/units/shots3_seed0_pretrained/curve.csv").read_text().splitlines()
    assert all(float(lines[step].split(",")[3]) > 0.5 for step in (30, 60))
    assert lines[29].endswith(",")
    # What is looked at on the way is what is kept: the averaged weights.
    kept = load_model(tmp_path / "run/units/shots3_seed0_pretrained/bundle")
    example = load_example(task[splits[0].validation[0]], task.sequences, kept.spec.canonical)
    scored, _ = predict_examples(kept, [example], 1.0)
    assert float(lines[60].split(",")[3]) == pytest.approx(scored.metric("dice"))


def test_sliding_window_puts_every_voxel_where_it_belongs(make_task, bundle, tmp_path, monkeypatch):
    task = load_task(make_task("segmentation", 2, affine=np.diag([1.0, -1.0, 1.0, 1.0])))
    example = load_example(task.cases[0], task.sequences, CanonicalSpec(1.0, crop_foreground=False))
    spec = TaskSpec("balls", "segmentation", ("t1",), 3, (16, 16, 32), 1.0, 2.0, False)
    model = TaskModel(create_encoder("unet_t", channels=(4, 8)), spec)

    def by_intensity(_: TaskModel, x: torch.Tensor) -> torch.Tensor:
        """A network without context: dark is class 2, bright is class 1."""
        return torch.cat([torch.zeros_like(x), x - 1.3, -1.3 - x], dim=1)

    monkeypatch.setattr(inference, "_forward", by_intensity)
    assert example.prepared.image.shape[1] > spec.crop[0]
    assert example.prepared.image.shape[3] < spec.crop[2]
    mask = predict_mask(model, example.prepared)
    image = example.prepared.image[0][:, ::-1]
    assert np.array_equal(mask, np.where(image > 1.3, 1, np.where(image < -1.3, 2, 0)))
    assert np.mean(mask == example.drawn_mask) > 0.95


@pytest.mark.parametrize("kind", ["segmentation", "regression"])
@torch.no_grad()
def test_mirrored_predictions_turn_with_the_scan(kind):
    spec = TaskSpec("toy", kind, ("t1",), 2, (16, 16, 16), 1.0, 2.0, False, mirror=("x", "z"))
    model = TaskModel(create_encoder("unet_t", channels=(4, 8)), spec).eval()
    x = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    images = [x, x.flip(2), x.flip(4), x.flip(2, 4)]
    outputs = [model(image) for image in images]
    found = inference._forward(model, x)
    if kind == "segmentation":
        outputs = [outputs[0], outputs[1].flip(2), outputs[2].flip(4), outputs[3].flip(2, 4)]
    torch.testing.assert_close(found, sum(outputs) / 4)
    assert not torch.allclose(found, outputs[0])
    for image in images[1:]:
        turned = inference._forward(model, image)
        torch.testing.assert_close(turned.sum(), found.sum())
    assert not torch.allclose(inference._forward(model, x.flip(3)).sum(), found.sum())


def test_dice_cross_entropy_prefers_the_truth():
    target = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    target[:, :2] = 1
    right = torch.nn.functional.one_hot(target, 2).movedim(-1, 1).float() * 20
    assert float(dice_cross_entropy(right, target)) < 1e-3
    assert float(dice_cross_entropy(-right, target)) > 5.0


def test_a_loss_that_is_no_number_stops_the_run(make_task, bundle, tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"at step 2\b.*Lower lr"):
        run_small(make_task, bundle, tmp_path / "run", recipe=replace(QUICK, lr=float("inf"), steps=8, warmup=0.0))


def test_a_bare_encoder_cannot_predict(bundle):
    with pytest.raises(BundleError, match="no task head"):
        predict_case(bundle, {"t1": Path("t1.nii.gz")})


def test_plan_survives_the_way_between_processes(make_task, bundle, tmp_path):
    plan = _plan(load_task(make_task("segmentation", 2)), tmp_path, QUICK, bundle, None, {})
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_twin_is_not_held_back_by_what_protects_pretrained_weights():
    protected = {"encoder_lr_scale": 0.1, "schedule": "sawtooth", "layer_decay": 0.5, "lora_rank": 4}
    recipe = Recipe(steps=1, batch_size=1, **protected)
    assert recipe_of(recipe, "pretrained") == recipe
    twin = recipe_of(recipe, "scratch")
    assert (twin.encoder_lr_scale, twin.schedule, twin.layer_decay, twin.lora_rank) == (1.0, "full", 1.0, 0)
    assert replace(twin, **protected) == recipe
    assert recipe_of(replace(recipe, schedule="probe"), "scratch").schedule == "probe"


@pytest.mark.parametrize("inflation", ["mean", "random"])
def test_a_pretrained_stem_for_several_sequences(make_task, bundle, tmp_path, inflation):
    task = load_task(make_task("classification", 4, ("t1", "flair")))
    still = replace(QUICK, lr=0.0, ema=0.0, inflation=inflation)
    splits = few_shot_splits(task, [2], 1, n_test=2)
    run_small(make_task, bundle, tmp_path / "run", task=task, recipe=still, splits=splits, scratch=False)
    model = load_model(tmp_path / "run/units/shots2_seed0_pretrained/bundle")
    first, second = model.encoder.state_dict()[f"{model.encoder.stem}.weight"].unbind(dim=1)
    assert torch.equal(first, second) == (inflation == "mean")
    assert predict_case(tmp_path / "run/units/shots2_seed0_pretrained/bundle", task.cases[0].images) >= 0.0


@pytest.mark.parametrize("name", ["unet_t", "per_sequence"])
def test_an_encoder_of_several_sequences_is_not_fused_again(tmp_path, name):
    arguments = (
        {"channels": (4, 8)} if name == "unet_t" else {"encoder": "unet_t", "encoder_args": {"channels": (4, 8)}}
    )
    config = BundleConfig(name, arguments, 2, InputContract(("flair", "t1"), 1.0, 2.0, (16, 16, 16)), {})
    save_bundle(tmp_path / "two", create_encoder(name, 2, **arguments), config)
    assert pretrained_encoder(tmp_path / "two", 2, "early").in_channels == 2
    for fusion in ("late", "concat", "separate"):
        with pytest.raises(BundleError, match=f"2 sequences at once, fusion={fusion}.*fusion=early"):
            pretrained_encoder(tmp_path / "two", 2, fusion)


def test_lora_leaves_a_plain_bundle_and_all_else_of_the_encoder_alone(make_task, tmp_path):
    torch.manual_seed(0)
    arguments = {"dim": 48, "depth": 4, "heads": 2}
    encoder = create_encoder("vit_t_p8", **arguments)
    config = BundleConfig("vit_t_p8", arguments, 1, InputContract(("t1",), 1.0, 2.0, (16, 16, 16)), {})
    save_bundle(tmp_path / "vit", encoder, config)
    recipe = replace(QUICK, lora_rank=2, layer_decay=0.7)
    task, _, _ = run_small(make_task, tmp_path / "vit", tmp_path / "run", "classification", recipe, scratch=False)
    unit = tmp_path / "run/units/shots2_seed0_pretrained"
    kept = load_model(unit / "bundle").encoder.state_dict()
    assert list(kept) == list(encoder.state_dict())
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, kept[name])}
    assert moved == {f"blocks.{i}.attn.{layer}.weight" for i in range(4) for layer in ("qkv", "proj")}
    table = read_csv(unit / "predictions.csv", "classification")
    value = predict_case(unit / "bundle", task[table.cases[0]].images)
    assert value == pytest.approx(float(table.columns["prediction"][0]), rel=1e-5)


def test_a_probe_moves_the_head_alone(make_task, bundle, tmp_path):
    recipe = replace(QUICK, schedule="probe")
    run_small(make_task, bundle, tmp_path / "run", "regression", recipe)
    before = load_weights(bundle).state_dict()
    after = load_model(tmp_path / "run/units/shots2_seed0_pretrained/bundle").encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (tmp_path / "run/units/shots2_seed0_scratch/result.json").is_file()


@pytest.mark.parametrize("kind", ["classification", "regression", "segmentation"])
def test_an_ensemble_is_the_mean_of_its_members(make_task, bundle, tmp_path, kind):
    task, splits, _ = run_small(make_task, bundle, tmp_path / "run", kind)
    units = [tmp_path / f"run/units/shots{n}_seed0_pretrained/bundle" for n in (1, 2)]
    case = task[splits[0].test[0]]
    together = predict_case(units, case.images)
    if kind != "segmentation":
        assert together == pytest.approx(np.mean([predict_case(unit, case.images) for unit in units]))
        return
    example = load_example(case, task.sequences, load_model(units[0]).spec.canonical)
    x = torch.from_numpy(example.prepared.image)[None]
    models = [load_model(unit) for unit in units]
    for model in models:  # one window, so that the plain reference below sees what prediction sees
        model.spec = replace(model.spec, crop=(24, 24, 24))
    padded = [inference._batch_of_one(model, example.prepared, (24, 24, 24)) for model in models]
    assert padded[0].shape[2:] == (24, 24, 24) != x.shape[2:]
    with torch.inference_mode():
        mean = sum(model(image).softmax(dim=1) for model, image in zip(models, padded, strict=True))
    low = [(24 - n) // 2 for n in x.shape[2:]]
    i, j, k = (slice(a, a + n) for a, n in zip(low, x.shape[2:], strict=True))
    expected = mean[0].argmax(dim=0)[i, j, k].numpy()
    mask = predict_mask(models, [example.prepared] * 2)
    assert np.mean(mask[::-1] == expected) > 0.999
    assert predict_case([units[0]] * 2, case.images).shape == together.shape


def test_bundles_of_two_tasks_are_no_ensemble(make_task, bundle, tmp_path):
    run_small(make_task, bundle, tmp_path / "a", "classification")
    run_small(make_task, bundle, tmp_path / "b", "regression")
    bundles = [tmp_path / run / "units/shots1_seed0_pretrained/bundle" for run in "ab"]
    with pytest.raises(BundleError, match="its kind is regression"):
        inference.load_models(bundles)


def test_augmentation_leaves_a_missing_sequence_empty():
    spec = TaskSpec("toy", "classification", ("t1", "flair"), 2, (16, 16, 16), 1.0, 2.0, True)
    model = TaskModel(create_encoder("unet_t", 2, channels=(4, 8)), spec)
    always = {"p": 1.0}
    recipe = replace(QUICK, switches={"noise": always | {"sigma": (0.1, 0.2)}, "contrast": always, "flip": False})
    images = torch.randn(2, 2, 16, 16, 16)
    images[0, 1] = 0.0
    batch = TaskBatch(images, None, torch.zeros(2), torch.tensor([1, 2]), torch.ones(2, 3))
    seen, _ = FinetuneModule(model, recipe).augmented(batch)
    assert not seen[0, 1].any()
    assert all(not torch.equal(seen[b, c], images[b, c]) for b, c in ((0, 0), (1, 0), (1, 1)))


def test_generators_of_several_gpus_are_put_back_without_a_warning(monkeypatch):
    state = {0: torch.tensor([1]), 1: torch.tensor([2])}
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state[device].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: state[device].copy_(value))
    with forked_generators():
        for own in state.values():
            own.zero_()
    assert [int(own) for own in state.values()] == [1, 2]
