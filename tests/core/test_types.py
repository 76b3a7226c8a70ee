import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import SEQUENCES, Views, ViewSpec, sequence_class


@pytest.mark.parametrize(
    ("name", "expected"), [("T1", "t1"), ("dwi_b1000", "dwi"), ("scan_3", "other"), ("t2s", "t2s"), ("", "other")]
)
def test_sequence_class(name: str, expected: str):
    assert sequence_class(name) == expected
    assert expected in SEQUENCES


def test_views_move_as_one():
    views = Views(
        images=[torch.zeros(2, 1, 4, 4, 4)],
        targets=[torch.zeros(2, 1, 4, 4, 4)],
        keys=torch.zeros(2, dtype=torch.int64),
        spacing=torch.ones(2, 3),
        sequences=torch.zeros(1, 2, dtype=torch.int64),
        paired=torch.ones(2, dtype=torch.bool),
    )
    moved = views.to("meta")
    assert len(moved) == 2
    assert all(t.device.type == "meta" for t in [*moved.images, *moved.targets, moved.keys, moved.paired])


@pytest.mark.parametrize("wrong", [{"n": 0}, {"min_overlap": 1.5}, {"min_overlap": -0.1}])
def test_views_that_nobody_can_cut_are_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError):
        ViewSpec(**wrong)
