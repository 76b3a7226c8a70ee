"""What the base gives all objectives: checked words, previews of the first samples, one draw of what is shown."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import previewed

MakeViews = Callable[..., Views]


MISSPELT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mae", {"loss": "l2"}),
    ("mae", {"loss_on": "maskd"}),
    ("simmim", {"loss": "huber"}),
    ("cross_sequence", {"loss": "huber"}),
    ("alignment", {"loss": "cos"}),
    ("contrastive", {"pairing": "overlapp"}),
    ("vicreg", {"pairing": "sessions"}),
)


def test_a_misspelt_word_is_refused_with_the_words_there_are() -> None:
    """In a process of its own: the run-time type checks of the test session would refuse it first."""
    script = f"""
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective
encoder = create_encoder("resenc_t", channels=(4, 8), blocks=(1, 1))
for name, wrong in {MISSPELT!r}:
    try:
        create_objective(name, encoder, **wrong)
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == len(MISSPELT)
    assert all("One of " in line for line in lines)


@pytest.mark.parametrize("name", ["mae", "simmim", "genesis", "denoising", "cross_sequence"])
def test_a_preview_shows_the_first_samples_of_any_batch(encoder: Encoder, make_views: MakeViews, name: str) -> None:
    objective = create_objective(name, encoder).eval()
    views = make_views(n=objective.views.n, batch=6)
    valid = [torch.ones_like(target, dtype=torch.bool) for target in views.targets]
    few = objective.preview(make_views(n=objective.views.n, batch=4))
    many = objective.preview(replace(views, valid=valid))
    for part in ("target", "visible", "reconstruction"):
        torch.testing.assert_close(getattr(many, part), getattr(few, part))


def test_previewed_views_are_whole(make_views: MakeViews) -> None:
    few = previewed(make_views(n=2, batch=6))
    assert len(few) == 4
    assert few.sequences.shape == (2, 4)
    assert [len(image) for image in few.images] == [4, 4]


@pytest.mark.parametrize("name", ["genesis", "volume_fusion"])
def test_what_is_shown_is_made_once_a_step(
    resenc: Encoder, make_views: MakeViews, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = create_objective(name, resenc)
    original, calls = objective.inputs, []
    monkeypatch.setattr(objective, "inputs", lambda *args: (calls.append(1), original(*args))[1])
    objective(make_views(n=objective.views.n), 0)
    assert len(calls) == 1
