"""Where objectives could break: the ends of their settings, crops of nothing, teachers, several processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from objective_cases import PRESETS, build, make_views, reorder

from fomo_ssl.core.types import Views
from fomo_ssl.objectives import Objective, list_objectives

FAMILIES = ("vit_t_p8", "primus_t", "resenc_t")  # two that drop tokens, each in its own way, and one that cannot

# The ends of what can be asked for; what is not named here is tried as it is by default.
EXTREMES: dict[str, list[dict[str, Any]]] = {
    "alignment": [
        {"loss": "contrast", "temperature": 1e-3},
        {"loss": "contrast", "temperature": 1e3},
        {"loss": "gram"},
    ],
    "contrastive": [{"temperature": 1e-3}, {"temperature": 1e3}],
    "cross_sequence": [{"kl": 1e3, "subject_dim": 1, "sequence_dim": 1}],
    "denoising": [{"log_mean": -7.0, "log_std": 0.0}, {"log_mean": 7.0, "log_std": 0.0}],
    "genesis": [{"p_intensity": 1.0, "p_shuffle": 1.0, "p_paint": 1.0, "shuffled": 1.0}, {"p_paint": 0.0}],
    "mae": [{"mask_ratio": 0.12}, {"mask_ratio": 0.88}, {"normalise_patches": True, "loss_on": "all"}],
    "moco": [{"temperature": 1e-3}, {"temperature": 1e3, "momentum": 0.0}],
    "self_distillation": [
        {"mask_ratio": 0.12, "student_temperature": 1e-3, "teacher_temperature": 1e-3},
        {"mask_ratio": 0.88, "student_temperature": 1e3, "teacher_temperature": 1e3},
        {"local_crops": 8, "student_temperature": 1e-3},
    ],
    "sequence_class": [{"class_weights": {"t1": 0.0, "other": 1e4}}],
    "simmim": [{"mask_ratio": 0.12}, {"mask_ratio": 0.88}],
    "vicreg": [{"invariance": 0.0, "covariance": 1e3}],
    "voco": [{"grid": 3, "targets": 1}],
    "volume_fusion": [{"steps": 1, "patches": 1, "edge_max": 1.0}, {"steps": 16}],
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[*list_objectives(), *PRESETS])
def objective(request: pytest.FixtureRequest, family: str) -> Objective:
    return build(request.param, family)


@pytest.mark.parametrize(
    ("name", "changes"), [(name, changes) for name in list_objectives() for changes in EXTREMES.get(name, [{}])]
)
def test_extreme_settings_stay_finite_under_bf16(name: str, changes: dict[str, Any], family: str) -> None:
    objective = build(name, family, **changes)
    with torch.autocast("cpu", torch.bfloat16):
        output = objective(make_views(objective.views.n), 0)
    output.loss.backward()
    values = {"loss": output.loss, **output.terms, **output.health}
    assert [label for label, value in values.items() if not value.isfinite()] == []
    broken = [label for label, p in objective.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert broken == []


def test_crops_of_nothing_stay_finite(objective: Objective) -> None:
    views = make_views(objective.views.n)
    empty = [torch.zeros_like(image) for image in views.images]
    output = objective(replace(views, images=empty, targets=empty), 0)
    output.loss.backward()
    values = {"loss": output.loss, **output.terms, **output.health}
    assert [label for label, value in values.items() if not value.isfinite()] == []
    broken = [label for label, p in objective.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert broken == []


def test_training_and_evaluation_give_the_same_loss(objective: Objective) -> None:
    views = make_views(objective.views.n)
    assert torch.equal(objective.train()(views, 3).loss, objective.eval()(views, 3).loss)


def test_a_teacher_shares_nothing_with_the_student_and_follows_it(objective: Objective) -> None:
    if objective.teacher is None:
        assert objective.momentum is None
        return
    student, teacher = list(objective.encoder.parameters()), list(objective.teacher.parameters())
    assert {p.data_ptr() for p in student}.isdisjoint(p.data_ptr() for p in teacher)
    assert not any(p.requires_grad for p in teacher)
    objective(make_views(objective.views.n), 0).loss.backward()
    assert all(p.grad is None for p in teacher)
    before = [p.clone() for p in teacher]
    with torch.no_grad():
        for p in student:
            p.add_(1.0)
    assert all(torch.equal(p, old) for p, old in zip(teacher, before, strict=True))
    objective.after_step(0)
    for own, old, p in zip(teacher, before, student, strict=True):
        torch.testing.assert_close(own, objective.momentum * old + (1.0 - objective.momentum) * p)


def losses_and_gradients(name: str, family: str, views: Views) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    objective = build(name, family)
    loss = objective(views, 0).loss
    loss.backward()
    return loss.detach(), {label: p.grad for label, p in objective.named_parameters() if p.grad is not None}


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for name in [*list_objectives(), *PRESETS]:
        for family in FAMILIES:
            views = reorder(make_views(build(name, family).views.n), [2 * rank, 2 * rank + 1])
            found[name, family] = losses_and_gradients(name, family, views)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_give_the_loss_and_gradient_of_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    wrong = []
    for (name, family), (loss, gradients) in first.items():
        other_loss, other_gradients = second[name, family]
        whole, expected = losses_and_gradients(name, family, make_views(build(name, family).views.n))
        pairs = [((loss + other_loss) / 2, whole)]
        # DDP averages over ranks what each rank's backward gave.
        pairs += [((gradients[label] + other_gradients[label]) / 2, value) for label, value in expected.items()]
        if not all(torch.allclose(found, value, rtol=1e-3, atol=1e-4) for found, value in pairs):
            wrong.append(f"{name} on {family}: {float(loss + other_loss) / 2} and {float(whole)}")
    assert wrong == []
