"""Every shipped encoder config builds, is what its name alone builds, and tells its true size."""

import functools
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from fomo_ssl.encoders import Encoder, create_encoder, list_encoders

FILES = sorted((Path(__file__).parents[2] / "conf" / "encoder").glob("*.yaml"))


def meta(name: str, **arguments: object) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name, **arguments)


@functools.cache
def size(name: str) -> float:
    """Million parameters."""
    return sum(p.numel() for p in meta(name).parameters()) / 1e6


def test_every_encoder_has_a_config():
    # These two wrap pretrained encoders downstream; nothing is pretrained with them.
    assert {file.stem for file in FILES} == set(list_encoders()) - {"late_fusion", "per_sequence"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_is_its_name(file: Path):
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert values["name"] == file.stem
    built, plain = meta(**values), meta(file.stem)
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    stated = float(re.search(r"([\d.]+) M parameters", file.read_text()).group(1))
    assert size(file.stem) == pytest.approx(stated, abs=0.006)


def test_the_reference_page_tells_true_sizes():
    page = Path(__file__).parents[2] / "docs" / "reference" / "encoders.md"
    sizes = page.read_text().split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d.]+) \|", sizes, flags=re.M))
    assert set(rows) == {file.stem for file in FILES}
    for name, stated in rows.items():
        assert size(name) == pytest.approx(float(stated), abs=0.006)
