import inspect
from typing import Any

import pytest

from fomo_ssl.config import conf_dir
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective, list_objectives
from fomo_ssl.objectives.base import objectives


def compose(name: str, *overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf_dir()), version_base=None):
        config = compose(overrides=[f"+objective={name}", *overrides])
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain["objective"]


@pytest.mark.parametrize("name", list_objectives())
def test_every_objective_has_a_config_that_builds(name: str, encoder: Encoder) -> None:
    arguments = compose(name)
    assert create_objective(encoder=encoder, **arguments).encoder is encoder


@pytest.mark.parametrize("name", [name for name in list_objectives() if name != "hybrid"])
def test_the_config_shows_every_argument_with_its_default(name: str) -> None:
    signature = inspect.signature(objectives[name])
    defaults = {key: value.default for key, value in signature.parameters.items() if key != "encoder"}
    assert compose(name) == {"name": name, **defaults}


def test_arguments_of_a_member_are_set_from_the_command_line(encoder: Encoder) -> None:
    arguments = compose("hybrid", "objective.members.mae.mask_ratio=0.5", "objective.weights.contrastive=1")
    objective = create_objective(encoder=encoder, **arguments)
    assert objective.members["mae"].mask_ratio == 0.5
    assert objective.weights["contrastive"] == 1
