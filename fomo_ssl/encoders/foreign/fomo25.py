"""UNet checkpoints of the FOMO25 challenge's baselines: `unet_b`, `unet_xl`, and both with a light decoder.

Facts from fomo25/baseline-codebase (d2df6d4): Lightning checkpoints, all of the network under `model.`, its encoder
under `model.encoder.`; two convolutions a stage, each with bias, affine instance norm and leaky ReLU 0.01, no dropout,
max pooling between stages. Trained on 1 mm, RAS, cropped to what is not zero, with the range from the least voxel to
the 99th percentile of the others mapped to 0 to 1.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders.base import Encoder, create_encoder
from fomo_ssl.encoders.foreign.keys import bare, bare_tensors, refuse_leftovers, tensors, training_crop
from fomo_ssl.encoders.foreign.transfer import Imported, transfer
from fomo_ssl.encoders.presets import UNET

NAME = "fomo25"
STEM = "encoder.in_conv.conv1.conv.weight"
_UNIT = re.compile(r"encoder\.(?:in_conv|encoder_conv(\d+))\.conv(\d+)\.(conv|norm)\.(weight|bias)")
_STAGES = 5
_CROP = 64  # the default of their command


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's dictionary is a FOMO25 baseline's."""
    state = bare_tensors(content)
    return STEM in state and STEM.replace(".conv.", ".norm.") in state


def read(content: Mapping[str, Any], where: Path) -> Imported:
    """An encoder from a Lightning checkpoint, or a bare state dict, of a FOMO25 baseline.

    Raises:
        ForeignWeightsError: not of this format, or see `transfer`.
    """
    if not recognises(content):
        raise ForeignWeightsError(f"no UNet of the FOMO25 baselines: {STEM} and its norm are not in it", where=where)
    encoder = unet_for(bare_tensors(content)[STEM], where)

    def rename(name: str) -> str | None:
        unit = _UNIT.fullmatch(bare(name))
        if unit is None:
            return None
        stage, layer, part, kind = unit.groups()
        return f"stages.{stage or 0}.{int(layer) - 1}.{part}.{kind}"

    report = transfer(encoder, tensors(content), rename, source=NAME, where=where)
    refuse_leftovers(report, lambda name: name.startswith("encoder."), where)
    source = {"source": "FOMO25 baseline checkpoint", "citations": ["arXiv 2604.11679", "arXiv 2408.00640"]}
    return Imported(encoder, report, 1.0, training_crop(content, _CROP), "unit_range_p99", (), source)


def unet_for(stem: Tensor, where: Path) -> Encoder:
    """Our UNet of five stages that starts as wide as this stem, by its preset's name where there is one.

    Raises:
        ForeignWeightsError: the stem is not that of a 3D network.
    """
    if stem.ndim != 5:
        raise ForeignWeightsError(f"a {stem.ndim - 2}D network", where=where, way_out="Only 3D networks are read")
    channels = tuple(stem.shape[0] * 2**stage for stage in range(_STAGES))
    name = next((name for name, preset in UNET.items() if preset["channels"] == channels), None)
    arguments = {} if name else {"channels": channels}
    return create_encoder(name or "unet_b", stem.shape[1], **arguments)
