"""Small objectives and views for the contract suites."""

import copy
import functools
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from fomo_ssl.config import compose, conf_dir
from fomo_ssl.core.seeding import fold, normal
from fomo_ssl.core.types import Placement, Views
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import Objective, create_objective, list_objectives

SMALL = {
    "vit_t_p8": {"dim": 48, "depth": 4, "heads": 2},
    "resenc_t": {"channels": (8, 16, 32), "blocks": (1, 1, 1)},
    "unet_t": {"channels": (8, 16, 32)},
    # No map at full resolution; the second block of the first stage shifts its windows.
    "swin_t": {"dim": 12, "depths": (2, 1), "heads": (2, 4), "window": 2},
    "primus_t": {"dim": 48, "depth": 4, "heads": 2, "learned_grid": (2, 2, 2)},
    "mednext_s": {"blocks": (1, 1, 1), "ratios": (2, 2, 2), "width": 8},
    "late_fusion": {"encoder": "vit_t_p8", "encoder_args": {"dim": 48, "depth": 4, "heads": 2}},
}
PRESETS = sorted({path.stem for path in (conf_dir() / "objective").glob("*.yaml")} - set(list_objectives()))

# Heads as wide as by default would take most of the time.
NARROW: dict[str, dict[str, Any]] = {
    "alignment": {"places": 3, "projector_hidden": 32, "projector_dim": 16},
    "contrastive": {"projector_hidden": 32},
    "moco": {"projector_hidden": 32, "queue": 64},
    "self_distillation": {"hidden": 32, "bottleneck": 16, "prototypes": 64},
    "vicreg": {"projector_hidden": 32, "projector_dim": 64},
    "voco": {"projector_hidden": 32, "projector_dim": 64},
}


@functools.cache
def arguments(preset: str) -> dict[str, Any]:
    values: dict[str, Any] = compose("pretrain", ["store=s", f"objective={preset}"])["objective"]
    return values


def settings(name: str) -> dict[str, Any]:
    """Name and arguments of a registered objective or a preset, with narrow heads."""
    if name not in PRESETS:
        return {"name": name, **NARROW.get(name, {})}
    preset = copy.deepcopy(arguments(name))
    for label, member in preset["members"].items():
        member |= NARROW.get(member.get("name", label), {}) | ({"queue": 0} if member.get("queue") == 0 else {})
    return preset


def build(name: str, encoder: str, seed: int = 0, **changes: Any) -> Objective:
    torch.manual_seed(seed)
    return create_objective(encoder=create_encoder(encoder, **SMALL[encoder]), **settings(name) | changes)


def make_views(n: int, batch: int = 4, size: int = 16) -> Views:
    keys = torch.arange(batch)
    shared = F.interpolate(normal(keys, 1, 4, 4, 4), size=size, mode="trilinear")
    targets = [shared + 0.3 * normal(fold(keys, f"view {view}"), 1, size, size, size) for view in range(n)]
    return Views(
        images=[1.1 * target for target in targets],
        targets=targets,
        keys=keys,
        spacing=torch.ones(batch, 3),
        sequences=torch.arange(n * batch).reshape(n, batch) % 3,
        paired=torch.ones(batch, dtype=torch.bool),
        placement=place(n, batch, size),
    )


def place(n: int, batch: int, size: int) -> Placement:
    """Views that lie a few voxels apart, each as it was cut out."""
    corners = torch.tensor([0, 2, 5])[:, None] + torch.arange(batch)
    origins = torch.stack([view * corners.T for view in range(n)])
    along = torch.linspace(0, size - 1, 9)
    lattice = torch.stack(torch.meshgrid(along, along, along, indexing="ij"))
    return Placement(origins=origins, landmarks=lattice.expand(n, batch, -1, -1, -1, -1).contiguous())


def reorder(views: Views, order: list[int]) -> Views:
    return replace(
        views,
        images=[image[order] for image in views.images],
        targets=[target[order] for target in views.targets],
        keys=views.keys[order],
        sequences=views.sequences[:, order],
        paired=views.paired[order],
        placement=views.placement and Placement(views.placement.origins[:, order], views.placement.landmarks[:, order]),
    )
