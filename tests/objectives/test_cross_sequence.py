from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, normal
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.cross_sequence import shared_cosine

MakeViews = Callable[..., Views]
SMALL = {"subject_dim": 6, "sequence_dim": 4}


def test_views_are_two_sequences_that_move_together(vit: Encoder) -> None:
    views = create_objective("cross_sequence", vit).views
    assert (views.n, views.pairing, views.together) == (2, "session", True)


@torch.no_grad()
def test_the_loss_is_its_four_terms_sample_by_sample(encoder: Encoder, make_views: MakeViews) -> None:
    weights = {"cross": 2.0, "kl": 0.3, "agree": 0.7, "differ": 0.2}
    objective, views = create_objective("cross_sequence", encoder, **SMALL, **weights), make_views(n=2)
    total = 0.0
    for b in range(4):
        key = views.keys[b : b + 1]
        subjects, sequences, divergence = [], [], 0.0
        for view in (0, 1):
            places = encoder.forward_features(views.images[view][b : b + 1])[-1].movedim(1, -1)
            drawn = []
            for layer, x, stream in (
                (objective.subject, places, "subject"),
                (objective.sequence, places.mean((1, 2, 3)), "sequence"),
            ):
                mean, log_variance = layer(x).chunk(2, dim=-1)
                noise = normal(fold(key, f"cross_sequence/{stream}/{view}"), *mean.shape[1:])
                drawn.append(mean + (0.5 * log_variance).exp() * noise)
                divergence += float(0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()) / 2
            subjects.append(drawn[0])
            sequences.append(drawn[1])
        error = 0.0
        for own, other in ((0, 1), (1, 0)):
            look = sequences[other][:, None, None, None].expand(*subjects[own].shape[:4], -1)
            joined = objective.join(torch.cat((subjects[own], look), dim=-1))
            if encoder.supports_token_dropping:
                grid = joined.shape[1:4]
                patches = objective.decoder(joined.flatten(1, 3), torch.arange(27)[None], tuple(grid))
                made = torch.zeros(1, 1, 24, 24, 24)
                for n in range(27):
                    x, y, z = 8 * (n // 9), 8 * (n // 3 % 3), 8 * (n % 3)
                    made[0, 0, x : x + 8, y : y + 8, z : z + 8] = patches[0, n].reshape(8, 8, 8)
            else:
                made = objective.decoder([joined.movedim(-1, 1)], (24, 24, 24))
            error += float((made - views.targets[other][b : b + 1]).square().mean()) / 2
        agree = 1.0 - float(F.cosine_similarity(*subjects, dim=-1).mean())
        differ = float(F.cosine_similarity(*sequences))
        total += (2.0 * error + 0.3 * divergence + 0.7 * agree + 0.2 * differ) / 4
    assert float(objective(views, 0).loss) == pytest.approx(total, rel=1e-3)


def test_samples_without_a_second_sequence_add_nothing(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("cross_sequence", encoder, **SMALL), make_views(n=2)
    halved = replace(views, paired=torch.tensor([True, False, True, False]))
    changed = [image.clone() for image in views.images]
    for image in changed:
        image[[1, 3]] += 5.0
    loss = objective(halved, 0).loss
    torch.testing.assert_close(objective(replace(halved, images=changed), 0).loss, loss)
    assert not objective(replace(views, paired=torch.zeros(4).bool()), 0).loss


def test_agreement_is_taken_where_both_hold_something() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 2, 2, 2, 5, generator=generator) for _ in range(2))
    both = (torch.rand(3, 2, 2, 2, 1, generator=generator) < 0.5).float()
    both[2] = 0.0
    found = shared_cosine(a, b, both)
    for n in range(2):
        at = both[n, ..., 0].nonzero().tolist()
        expected = sum(float(F.cosine_similarity(a[n, i, j, k], b[n, i, j, k], dim=0)) for i, j, k in at) / len(at)
        assert float(found[n]) == pytest.approx(expected, rel=1e-4)
    assert found[2] == 1.0


def test_in_a_hybrid_hidden_places_add_nothing_to_the_latents(vit: Encoder, make_views: MakeViews) -> None:
    members = {"mae": {"mask_ratio": 0.5}, "cross_sequence": dict(SMALL)}
    objective = create_objective("hybrid", vit, members=members, weights={"mae": 0.0, "cross_sequence": 1.0})
    views = make_views(n=2)
    loss = objective(views, 0).loss
    hidden = [torch.kron(mask[:, None].float(), torch.ones(8, 8, 8)).bool() for mask in objective.masks(views, 0)]
    noise = [torch.where(h, torch.randn_like(x), x) for h, x in zip(hidden, views.images, strict=True)]
    torch.testing.assert_close(objective(replace(views, images=noise), 0).loss, loss)


def test_settings_out_of_range_are_refused(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="0 and 64 channels"):
        create_objective("cross_sequence", vit, subject_dim=0)
