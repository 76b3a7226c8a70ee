"""What every objective promises, for every registered one, every preset of a hybrid and every family of encoders."""

import pytest
import torch
from objective_cases import PRESETS, SMALL, build, make_views, reorder, settings
from torch import Tensor

from fomo_ssl.config import conf_dir
from fomo_ssl.encoders import create_encoder
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.objectives import Objective, create_objective, list_objectives

# The others add no code that an objective sees: one that reconstructs and one that compares are enough.
SMOKE = {"mednext_s": ("mae", "contrastive"), "late_fusion": ("mae", "contrastive")}
CASES = [(name, family) for family in SMALL for name in SMOKE.get(family, list_objectives())]
# Presets add no code of their own: one encoder that drops tokens and one that cannot are enough.
CASES += [(name, family) for name in PRESETS for family in ("vit_t_p8", "resenc_t")]


def test_every_family_is_here() -> None:
    presets = {path.stem for path in (conf_dir() / "encoder").glob("*.yaml")}
    assert {family.split("_")[0] for _, family in CASES} >= {preset.split("_")[0] for preset in presets}


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def name(case: tuple[str, str]) -> str:
    return case[0]


@pytest.fixture
def family(case: tuple[str, str]) -> str:
    return case[1]


@pytest.fixture
def objective(case: tuple[str, str]) -> Objective:
    return build(*case)


def test_output_is_a_finite_float32_scalar_with_named_parts(objective: Objective) -> None:
    output = objective(make_views(objective.views.n), 0)
    assert output.loss.shape == ()
    assert output.loss.dtype == torch.float32
    assert output.terms
    assert "embedding_std" in output.health
    for label, value in (output.terms | output.health).items():
        assert value.shape == (), label
        assert value.isfinite(), label
        assert not value.requires_grad, label


def test_gradients_reach_every_parameter(objective: Objective) -> None:
    objective(make_views(objective.views.n), 0).loss.backward()
    without = [label for label, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert any(p.grad.abs().max() > 0 for p in objective.encoder.parameters())


def test_checkpointing_keeps_less_and_changes_no_bit(name: str, family: str) -> None:
    kept, gradients = [], []
    for enable in (False, True):
        objective = build(name, family)
        assert set_grad_checkpointing(objective, enable) > 0
        views, sizes = make_views(objective.views.n), []

        def pack(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = objective(views, 0).loss
        loss.backward()
        kept.append(sum(sizes))
        gradients.append({label: p.grad for label, p in objective.named_parameters() if p.grad is not None})
    assert kept[1] < kept[0]
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][label], gradients[1][label]) for label in gradients[0])


def test_same_views_give_the_same_loss_and_leave_the_global_generator_alone(objective: Objective) -> None:
    views, state = make_views(objective.views.n), torch.get_rng_state()
    first, second = objective(views, 0), objective(views, 0)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_order_of_samples_does_not_matter(objective: Objective) -> None:
    views = make_views(objective.views.n)
    shuffled = reorder(views, [2, 0, 3, 1])
    torch.testing.assert_close(objective(views, 0).loss, objective(shuffled, 0).loss, rtol=1e-4, atol=1e-5)


def test_the_encoder_is_the_one_passed_in(name: str, family: str) -> None:
    encoder = create_encoder(family, **SMALL[family])
    objective = create_objective(encoder=encoder, **settings(name))
    assert objective.encoder is encoder
    assert sum(p.numel() for p in encoder.parameters()) == sum(
        p.numel() for label, p in objective.named_parameters() if label.startswith("encoder.")
    )


def test_state_returns_in_full_and_in_two_parts(name: str, family: str) -> None:
    source, views = build(name, family, seed=1), make_views(build(name, family).views.n)
    expected = source(views, 0).loss

    whole = build(name, family)
    whole.load_state_dict(source.state_dict())
    assert torch.equal(whole(views, 0).loss, expected)

    parts = build(name, family)
    parts.encoder.load_state_dict(source.encoder.state_dict())
    parts.load_pretraining_state(source.pretraining_state())
    assert torch.equal(parts(views, 0).loss, expected)


def test_pretraining_state_leaves_the_encoder_out_and_is_checked(objective: Objective) -> None:
    state = objective.pretraining_state()
    assert set(state) == {key for key in objective.state_dict() if not key.startswith("encoder.")}
    state.pop(next(iter(state)))
    with pytest.raises(ValueError, match="does not fit"):
        objective.load_pretraining_state(state)


def test_losses_are_float32_under_bf16_autocast(objective: Objective) -> None:
    views = make_views(objective.views.n)
    exact = objective(views, 0).loss.detach()
    with torch.autocast("cpu", torch.bfloat16):
        output = objective(views, 0)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss.detach(), exact, rtol=0.1, atol=0.1)


def test_a_preview_has_shape_and_no_gradient(objective: Objective) -> None:
    preview = objective.eval().preview(make_views(objective.views.n))
    assert (preview is not None) == objective.reconstructs
    if preview is not None:
        for volume in (preview.target, preview.visible, preview.reconstruction):
            assert volume.shape == (4, 1, 16, 16, 16)
            assert volume.dtype == torch.float32
            assert not volume.requires_grad
