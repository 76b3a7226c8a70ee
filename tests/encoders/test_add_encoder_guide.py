"""The how-to page is run as it is printed: its encoder, registered from outside the package, keeps the contract."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fomo_ssl.encoders import create_encoder, list_encoders, load_encoder_state
from fomo_ssl.encoders.base import encoders
from fomo_ssl.heads.tasks import build_head

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add_encoder.md"


@pytest.fixture
def guide() -> Iterator[list[str]]:
    before = dict(encoders._builders)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    yield blocks
    encoders._builders.clear()
    encoders._builders.update(before)


def test_the_guide_works(guide: list[str]):
    namespace: dict[str, object] = {"__name__": "my_project"}
    for block in guide:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert "my_net" in list_encoders()
    encoder = create_encoder("my_net", channels=(4, 8, 12))
    x = torch.randn(2, 1, 13, 12, 10)
    maps = encoder.forward_features(x)
    assert [tuple(level.shape[1:]) for level in maps] == [(4, 13, 12, 10), (8, 7, 6, 5), (12, 4, 3, 3)]
    assert build_head("segmentation", encoder, 2)(x, maps).shape == (2, 2, 13, 12, 10)
    two = create_encoder("my_net", in_channels=2, channels=(4, 8, 12))
    load_encoder_state(two, encoder.state_dict())
    torch.testing.assert_close(two(x.expand(-1, 2, -1, -1, -1)), encoder(x), atol=1e-5, rtol=1e-4)
