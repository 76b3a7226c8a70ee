import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fomo_ssl.core.errors import ConfigError, UnknownNameError
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import encode
from fomo_ssl.objectives.hybrid import richest, weight_at

MakeViews = Callable[..., Views]


def test_each_view_is_encoded_once(encoder: Encoder, make_views: MakeViews, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "forward_tokens" if encoder.supports_token_dropping else "forward_features"
    calls, original = [], getattr(encoder, method)
    monkeypatch.setattr(encoder, method, lambda *args: (calls.append(1), original(*args))[1])
    create_objective("hybrid", encoder)(make_views(n=2), 0)
    assert len(calls) == 2


def test_loss_is_the_weighted_sum_of_the_members(encoder: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("hybrid", encoder, weights={"mae": 5, "contrastive": 0.1}).eval()
    views = make_views(n=2)
    masks = objective.masks(views, 0)
    encoded = [encode(encoder, x, m, objective.mask_unit) for x, m in zip(views.images, masks, strict=True)]
    apart = {label: member.score(encoded, views, 0) for label, member in objective.members.items()}
    output = objective(views, 0)
    assert torch.allclose(output.loss, 5 * apart["mae"].loss + 0.1 * apart["contrastive"].loss)
    for member in apart.values():
        assert member.terms.keys() <= output.terms.keys()
        assert member.health.keys() <= output.health.keys()


def test_the_encoder_is_stored_once(encoder: Encoder) -> None:
    objective = create_objective("hybrid", encoder)
    own = {f"encoder.{name}" for name in encoder.state_dict()}
    state = set(objective.state_dict())
    assert own <= state
    assert not any("encoder" in name.split(".") for name in state - own)
    twin = copy.deepcopy(objective)
    assert all(member.encoder is twin.encoder for member in twin.members.values())


def test_members_take_their_own_arguments(resenc: Encoder, make_views: MakeViews) -> None:
    members: dict[str, dict[str, Any]] = {
        "fine": {"name": "mae", "mask_unit": 4, "mask_ratio": 0.5},
        "contrastive": {"pairing": "session", "temperature": 0.5},
    }
    objective = create_objective("hybrid", resenc, members=members, weights={"fine": 1.0, "contrastive": 1.0})
    assert objective.mask_unit == (4, 4, 4)
    assert objective.views.pairing == "session"
    assert objective(make_views(n=2), 0).loss.isfinite()
    assert objective.preview(make_views(n=2)) is not None


def test_nothing_is_hidden_where_no_member_hides(vit: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("hybrid", vit, members={"contrastive": {}}, weights={"contrastive": 1.0})
    assert objective.masks(make_views(n=2), 0) == [None, None]
    assert objective.preview(make_views(n=2)) is None


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (5, 0.05), (10, 0.1), (1000, 0.1)])
def test_a_ramp_is_linear_and_stays_at_its_end(step: int, expected: float) -> None:
    assert weight_at({"start": 0.0, "end": 0.1, "steps": 10}, step) == pytest.approx(expected)
    assert weight_at(0.3, step) == 0.3


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.05), (5000, 0.05), (15_000, 0.5), (25_000, 0.95), (60_000, 0.95), (85_000, 0.49), (10**6, 0.03)],
)
def test_points_are_joined_by_lines(step: int, expected: float) -> None:
    points = [[5000, 0.05], [25_000, 0.95], [70_000, 0.95], [100_000, 0.03]]
    assert weight_at(points, step) == pytest.approx(expected)


def test_members_share_one_teacher_and_its_passes(
    encoder: Encoder, make_views: MakeViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = create_objective(
        "hybrid",
        encoder,
        members={"mae": {}, "moco": {"queue": 0, "momentum": 0.9}, "self": {"name": "moco", "momentum": 0.9}},
        weights={"mae": 1.0, "moco": 1.0, "self": 1.0},
    )
    teachers = [label for label in objective.state_dict() if "teacher" in label]
    assert len(teachers) == len(encoder.state_dict())
    assert all(label.startswith("teacher.") for label in teachers)
    calls, original = [], objective.teacher.forward_features
    monkeypatch.setattr(objective.teacher, "forward_features", lambda x: (calls.append(1), original(x))[1])
    objective(make_views(n=2), 0)
    assert len(calls) == 2
    before = [p.clone() for p in objective.teacher.parameters()]
    objective.after_step(0)
    for old, new, p in zip(before, objective.teacher.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * p)


def test_a_ramp_reaches_the_loss(vit: Encoder, make_views: MakeViews) -> None:
    weights = {"mae": 1.0, "contrastive": {"start": 0.0, "end": 1.0, "steps": 4}}
    objective, views = create_objective("hybrid", vit, weights=weights).eval(), make_views(n=2)
    first, last = objective(views, 0), objective(views, 4)
    assert torch.allclose(first.loss, first.terms["mae/loss"])
    assert torch.allclose(last.loss, last.terms["mae/loss"] + last.terms["contrastive/loss"])


def test_two_members_of_one_objective_are_logged_apart(vit: Encoder, make_views: MakeViews) -> None:
    members = {"contrastive": {}, "sharp": {"name": "contrastive", "temperature": 0.01}}
    objective = create_objective("hybrid", vit, members=members, weights={"contrastive": 1.0, "sharp": 2.0}).eval()
    output = objective(make_views(n=2), 0)
    assert {"contrastive/loss", "sharp/loss", "hybrid/weight_sharp", "hybrid/loss"} == set(output.terms) - {
        "hybrid/weight_contrastive"
    }
    assert {"contrastive/accuracy", "sharp/accuracy"} <= set(output.health)
    assert torch.allclose(output.loss, output.terms["contrastive/loss"] + 2.0 * output.terms["sharp/loss"])


def test_the_richest_views_serve_everyone() -> None:
    overlap = ViewSpec(n=2, pairing="overlap", min_overlap=0.6)
    assert richest([ViewSpec(), overlap]) == overlap
    # One view has no overlap, so its default does not bind those who ask for a small one.
    small = replace(overlap, min_overlap=0.1)
    assert richest([ViewSpec(), small]) == small
    asking = richest([replace(overlap, placed=True), replace(overlap, together=True)])
    assert asking == replace(overlap, placed=True, together=True)
    with pytest.raises(ConfigError, match="different pairings: overlap, session"):
        richest([overlap, ViewSpec(n=2, pairing="session")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": {"mae": {}}}, "weights for"),
        ({"weights": {"mae": 1.0, "contrastive": None}}, "weight of 'contrastive' is None"),
        ({"weights": {"mae": 1.0, "contrastive": {"start": 0.0, "end": 1.0}}}, "neither a number nor a ramp"),
        ({"weights": {"mae": 1.0, "contrastive": {"start": 0.0, "end": 1.0, "steps": 0}}}, "positive number of steps"),
        ({"weights": {"mae": 1.0, "contrastive": [[5, 0.1], [5, 0.2]]}}, "no row of points"),
        ({"weights": {"mae": 1.0, "contrastive": [[5, 0.1, 2.0]]}}, "no row of points"),
        (
            {
                "members": {"moco": {"momentum": 0.9}, "again": {"name": "moco", "momentum": 0.99}},
                "weights": {"moco": 1.0, "again": 1.0},
            },
            "different momenta",
        ),
        ({"members": {"mae": {}, "again": {"name": "mae"}}, "weights": {"mae": 1.0, "again": 1.0}}, "hide something"),
    ],
)
def test_contradictions_are_refused(vit: Encoder, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_objective("hybrid", vit, **arguments)


def test_an_unknown_member_lists_near_names(vit: Encoder) -> None:
    with pytest.raises(UnknownNameError, match="did you mean mae"):
        create_objective("hybrid", vit, members={"maee": {}}, weights={"maee": 1.0})
