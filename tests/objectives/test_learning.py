"""Every objective learns four fixed samples: seeded, a few steps, a clear fall of the loss."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fomo_ssl.core.types import Views
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective

SMALL: dict[str, dict[str, Any]] = {
    "vit_t_p8": {"depth": 4},
    "resenc_t": {"channels": (8, 16, 32), "blocks": (1, 1, 1)},
}
# Final loss over first loss: about a tenth above what was measured, where it was not next to nothing.
CASES = [
    ("mae", "vit_t_p8", 0.8),
    ("mae", "resenc_t", 0.55),
    ("contrastive", "vit_t_p8", 0.1),
    ("contrastive", "resenc_t", 0.1),
    ("hybrid", "vit_t_p8", 0.6),
    ("hybrid", "resenc_t", 0.55),
    ("vicreg", "vit_t_p8", 0.9),
    ("vicreg", "resenc_t", 0.9),
    ("moco", "vit_t_p8", 0.2),
    ("moco", "resenc_t", 0.5),
    ("simmim", "vit_t_p8", 0.75),
    ("simmim", "resenc_t", 0.75),
    ("genesis", "vit_t_p8", 0.3),
    ("genesis", "resenc_t", 0.5),
    ("volume_fusion", "vit_t_p8", 0.65),
    ("volume_fusion", "resenc_t", 0.8),
    ("denoising", "vit_t_p8", 0.16),
    ("denoising", "resenc_t", 0.36),
    ("voco", "vit_t_p8", 0.3),
    ("voco", "resenc_t", 0.1),
    ("sequence_class", "vit_t_p8", 0.1),
    ("sequence_class", "resenc_t", 0.5),
    ("alignment", "vit_t_p8", 0.1),
    ("alignment", "resenc_t", 0.15),
    ("cross_sequence", "vit_t_p8", 0.1),
    ("cross_sequence", "resenc_t", 0.35),
    ("self_distillation", "vit_t_p8", 0.96),
    ("self_distillation", "resenc_t", 0.97),
]
# What would make the four samples their own negatives, move what is to be learned faster than it can be, or take long.
SETTINGS: dict[str, dict[str, Any]] = {
    "moco": {"queue": 0},
    "alignment": {"places": 3},
    "self_distillation": {"momentum": 0.999, "center_momentum": 0.9999},
}


@pytest.mark.parametrize(("name", "family", "falls_to"), CASES)
def test_four_samples_are_learned(make_views: Callable[..., Views], name: str, family: str, falls_to: float) -> None:
    torch.manual_seed(0)
    objective = create_objective(name, create_encoder(family, **SMALL[family]), **SETTINGS.get(name, {}))
    views = make_views(n=objective.views.n, size=(16, 16, 16))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    losses = []
    for step in range(30):
        output = objective(views, step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        objective.after_step(step)
        losses.append(output.loss.item())
    assert sum(losses[-3:]) / 3 < falls_to * losses[0], losses
