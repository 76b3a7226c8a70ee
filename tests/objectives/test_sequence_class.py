import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import SEQUENCES, Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective


@torch.no_grad()
def test_the_loss_is_the_weighted_cross_entropy_of_every_view(
    encoder: Encoder, make_views: Callable[..., Views]
) -> None:
    names = [["t1", "t2", "swi", "other"], ["flair", "t1", "swi", "t1"]]
    views = make_views(n=2)
    views = replace(views, sequences=torch.tensor([[SEQUENCES.index(name) for name in row] for row in names]))
    objective = create_objective("sequence_class", encoder, class_weights={"swi": 5.0, "t1": 0.5})
    errors, right = [], []
    for image, row in zip(views.images, names, strict=True):
        for logits, name in zip(objective.head(encoder(image)).tolist(), row, strict=True):
            total = math.log(sum(math.exp(value) for value in logits))
            errors.append({"swi": 5.0, "t1": 0.5}.get(name, 1.0) * (total - logits[SEQUENCES.index(name)]))
            right.append(max(logits) == logits[SEQUENCES.index(name)])
    output = objective(views, 0)
    assert float(output.loss) == pytest.approx(sum(errors) / 8, rel=1e-4)
    assert float(output.health["sequence_class/accuracy"]) == pytest.approx(sum(right) / 8)


@pytest.mark.parametrize("weights", [{"t9": 1.0}, {"t1": -1.0}])
def test_wrong_weights_are_refused(vit: Encoder, weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="no such class of sequences"):
        create_objective("sequence_class", vit, class_weights=weights)
