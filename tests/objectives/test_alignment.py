import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from plain_placement import as_cut

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.alignment import disagreement
from fomo_ssl.objectives.base import Encoded
from fomo_ssl.objectives.places import last_map, look_up, shared_places

MakeViews = Callable[..., Views]
SMALL = {"places": 3, "projector_hidden": 16, "projector_dim": 8}


def test_shared_places_of_plain_crops_are_the_centres_of_boxes_in_their_overlap() -> None:
    origins = torch.tensor([[[0, 0, 0], [4, 0, -3]], [[6, 2, 0], [0, 0, 0]]])
    positions, inside = shared_places(as_cut(origins, (12, 10, 8)), (12, 10, 8), 4)
    assert inside.all()
    for sample in range(2):
        for axis, length in enumerate((12, 10, 8)):
            starts = origins[:, sample, axis].tolist()
            low, high = max(starts), min(starts) + length
            expected = [low + (high - low) * (i + 0.5) / 4 - 0.5 for i in range(4)]
            for view in (0, 1):
                found = (positions[view][sample, :, axis] + starts[view]).reshape(4, 4, 4).movedim(axis, 0).flatten(1)
                torch.testing.assert_close(found, torch.tensor(expected)[:, None].expand(4, 16), rtol=0, atol=1e-4)


def test_crops_that_do_not_meet_share_no_place() -> None:
    origins = torch.tensor([[[0, 0, 0]], [[8, 0, 0]]])
    _, inside = shared_places(as_cut(origins, (8, 8, 8)), (8, 8, 8), 3)
    assert not inside.any()


def test_both_views_show_the_same_voxel_at_a_shared_place_after_augmentation(vit: Encoder) -> None:
    """Crops hold the scan's own x, y, z as intensity; the places must show one and the same position in both views."""
    size, samples, objective = (24, 24, 24), 16, create_objective("alignment", vit, **SMALL)
    generator = torch.Generator().manual_seed(0)
    origins = torch.randint(0, 9, (2, samples, 3), generator=generator)
    shown = []
    for axis in range(3):
        along = torch.arange(24).view([-1 if d == axis else 1 for d in range(3)]).expand(size)
        images = [
            ((along + origins[view, :, axis, None, None, None]) * 64)[:, None].to(torch.int16).contiguous()
            for view in (0, 1)
        ]
        ones = torch.ones(2, samples)
        batch = CropBatch(
            images, ones / 64, 0 * ones, origins, torch.arange(samples), torch.arange(samples),
            torch.zeros(2, samples, dtype=torch.int64), torch.ones(samples, 3),
            torch.zeros(2, samples, dtype=torch.int64), torch.ones(samples) > 0,
        )  # fmt: skip
        shown.append(Augmenter("spatial", objective.views, affine={"p": 1.0}, elastic={"p": 0.5})(batch))
    placement = shown[0].placement
    positions, inside = shared_places(placement, size, 5)
    assert 0.3 < inside.float().mean() < 1.0
    found = []
    for view in (0, 1):
        volume = torch.cat([one.images[view] for one in shown], dim=1)
        values, near = look_up(volume, torch.ones_like(volume[:, :1]), positions[view], (1, 1, 1))
        assert near.all()
        found.append(values)
    error = (found[0] - found[1]).abs().amax(-1)[inside]
    # The outermost voxels are partly mirror images.
    assert error.quantile(0.95) < 0.3
    points = (
        placement.origins.amax(0)[:, None]
        - 0.5
        + (24 - (origins[0] - origins[1]).abs())[:, None] * ((torch.cartesian_prod(*[torch.arange(5)] * 3) + 0.5) / 5)
    )
    assert (found[0] - points).abs().amax(-1)[inside].quantile(0.95) < 0.3


def test_dropped_tokens_are_left_out_of_a_look() -> None:
    torch.manual_seed(0)
    keep = torch.tensor([[0, 3, 5, 6, 7]])
    tokens = torch.randn(1, 5, 3)
    encoded = Encoded(torch.zeros(1, 3), torch.zeros(1, 1, 8, 8, 8), tokens=tokens, keep=keep)
    features, held = last_map(encoded, (8, 8, 8), (4, 4, 4))
    places = torch.tensor([[[1.5, 1.5, 1.5], [3.5, 3.5, 3.5], [2.0, 5.0, 1.0], [1.5, 1.5, 5.5]]])
    found, near = look_up(features, held, places, (4, 4, 4))
    where = {int(k): tokens[0, i] for i, k in enumerate(keep[0])}
    for n, place in enumerate(places[0].tolist()):
        total, weight = torch.zeros(3), 0.0
        for flat in range(8):
            cell = (flat // 4, flat // 2 % 2, flat % 2)
            share = math.prod(max(0.0, 1.0 - abs((p - 1.5) / 4 - c)) for p, c in zip(place, cell, strict=True))
            # Outside the outermost centres the border is repeated.
            if share and flat in where:
                total, weight = total + share * where[flat], weight + share
        if n < 2:
            torch.testing.assert_close(found[0, n], total / weight)
    assert near.tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("kind", ["cosine", "gram", "contrast"])
def test_disagreement_is_counted_place_by_place(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    said, aim = (F.normalize(torch.randn(2, 5, 4, generator=generator), dim=-1) for _ in range(2))
    counts = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0]]).bool()
    found = disagreement(said, aim, counts, kind, 0.5)
    for b in range(2):
        at = counts[b].nonzero().flatten().tolist()
        if kind == "cosine":
            expected = sum(2.0 - 2.0 * float(said[b, i] @ aim[b, i]) for i in at) / len(at)
        elif kind == "gram":
            grams = [sum(torch.outer(z[b, i], z[b, i]) for i in at) / len(at) for z in (said, aim)]
            expected = float((grams[0] - grams[1]).square().sum())
        else:
            terms = []
            for i in at:
                scores = {j: math.exp(float(said[b, i] @ aim[b, j]) / 0.5) for j in at}
                terms.append(-math.log(scores[i] / sum(scores.values())))
            expected = sum(terms) / len(at)
        assert float(found[b]) == pytest.approx(expected, rel=1e-4)
    assert not disagreement(said, aim, torch.zeros(2, 5).bool(), kind, 0.5).any()


@pytest.mark.parametrize("kind", ["cosine", "gram", "contrast"])
def test_agreement_of_one_crop_with_itself_is_perfect_for_a_teacher_that_is_the_student(
    kind: str, encoder: Encoder, make_views: MakeViews
) -> None:
    """With the predictor out of the way; a crop that lies elsewhere then disagrees."""
    objective = create_objective("alignment", encoder, loss=kind, temperature=0.01, **SMALL)
    objective.predictor = torch.nn.Identity()
    views = make_views(n=1)
    twice = replace(views, images=views.images * 2, placement=as_cut(torch.zeros(2, 4, 3).long(), (24, 24, 24)))
    loss = objective(twice, 0).loss
    moved = replace(twice, placement=as_cut(torch.tensor([0, 9]).view(2, 1, 1).repeat(1, 4, 3), (24, 24, 24)))
    assert objective(moved, 0).loss > loss + 1e-3
    if kind != "contrast":
        assert loss < 1e-5


def test_alignment_knows_no_place_without_placement(vit: Encoder, make_views: MakeViews) -> None:
    with pytest.raises(ConfigError, match="must know where its views lie"):
        create_objective("alignment", vit, **SMALL)(replace(make_views(n=2), placement=None), 0)


def test_settings_out_of_range_are_refused(vit: Encoder) -> None:
    for wrong in ({"places": 1}, {"temperature": 0.0}, {"momentum": 1.0}):
        with pytest.raises(ConfigError):
            create_objective("alignment", vit, **wrong)
