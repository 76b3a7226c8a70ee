import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective

MakeViews = Callable[..., Views]
SMALL = {"projector_hidden": 16, "projector_dim": 8}


def plain_loss(objective, views: Views, temperature: float) -> float:
    """The symmetric loss in loops of Python numbers."""
    unit = lambda rows: F.normalize(rows.detach().double(), dim=1).tolist()  # noqa: E731
    queries = [unit(objective.predictor(objective.projector(objective.encoder(image)))) for image in views.images]
    keys = [unit(objective.slow_projector(objective.teacher(image))) for image in views.images]
    old = unit(objective.queue[: int(objective.filled)]) if int(objective.filled) else []
    total = 0.0
    for view, partner in ((0, 1), (1, 0)):
        candidates = keys[partner] + old
        for i, query in enumerate(queries[view]):
            weights = [math.exp(sum(a * b for a, b in zip(query, c, strict=True)) / temperature) for c in candidates]
            total -= math.log(weights[i] / sum(weights)) / len(queries[view])
    return total / 2 * 2 * temperature


def test_loss_equals_the_plain_loop_with_an_empty_and_a_filled_queue(encoder: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("moco", encoder, queue=12, temperature=0.5, **SMALL).eval()
    for first_key in (0, 10, 20):
        views = make_views(n=2, first_key=first_key)
        expected = plain_loss(objective, views, 0.5)
        assert objective(views, 0).loss.item() == pytest.approx(expected, rel=1e-4)
        objective.after_step(0)
    assert int(objective.filled) == 12


def test_the_newest_lie_in_front_and_the_oldest_leave(vit: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("moco", vit, queue=12, momentum=0.5, **SMALL)
    seen = []
    for step in range(3):
        views = make_views(n=2, first_key=10 * step)
        with torch.no_grad():
            keys = [objective.slow_projector(objective.teacher(image)) for image in views.images]
        seen.insert(0, torch.cat(keys))
        objective(views, step)
        objective.after_step(step)
    torch.testing.assert_close(objective.queue, torch.cat(seen)[:12], rtol=1e-4, atol=1e-5)


def test_the_teacher_follows_and_no_gradient_reaches_it(encoder: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("moco", encoder, momentum=0.9, **SMALL)
    before = [p.clone() for p in objective.teacher.parameters()]
    objective(make_views(n=2), 0).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    with torch.no_grad():
        for p in objective.encoder.parameters():
            p.add_(1.0)
    objective.after_step(0)
    moved = list(objective.teacher.parameters())
    for old, new, student in zip(before, moved, objective.encoder.parameters(), strict=False):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)
    ids = {id(p) for p in objective.teacher.parameters()}
    assert not ids & {id(p) for p in [*objective.encoder.parameters(), *objective.projector.parameters()]}


def test_a_restored_state_goes_on_as_it_was(vit: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("moco", vit, queue=12, **SMALL)
    objective(make_views(n=2), 0)
    objective.after_step(0)
    torch.manual_seed(5)
    other = create_objective("moco", vit, queue=12, **SMALL)
    other.load_state_dict(objective.state_dict())
    views = make_views(n=2, first_key=7)
    assert torch.equal(objective(views, 1).loss, other(views, 1).loss)


def test_one_sample_needs_a_queue(vit: Encoder, make_views: MakeViews) -> None:
    with pytest.raises(ConfigError, match="raise the batch size"):
        create_objective("moco", vit, queue=0, **SMALL)(make_views(n=2, batch=1), 0)
    objective = create_objective("moco", vit, queue=4, **SMALL)
    objective.queue.normal_()
    objective.filled.fill_(4)
    assert objective(make_views(n=2, batch=1), 0).loss.isfinite()
