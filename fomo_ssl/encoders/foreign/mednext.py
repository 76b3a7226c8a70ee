"""Weights of MedNeXt out, under the names of MONAI's network of the same name."""

from pathlib import Path
from typing import Any

import torch

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.core.files import atomic_folder, write_json
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.encoders.mednext import MedNeXt

NAME = "mednext"


def write(encoder: Encoder, folder: Path, facts: Any = None) -> None:
    """Write `mednext.pth`, a plain state dict under the names of MONAI's MedNeXt, and `config.json`.

    `MedNeXt(out_channels=…, **arguments).load_state_dict(state, strict=False)` takes it with the arguments that
    `config.json` lists; the missing keys are those of the decoder, which mirrors the encoder as in MONAI's own sizes.

    Args:
        encoder: a MedNeXt.
        folder: replaced as a whole or left as it was.
        facts: not part of this format.

    Raises:
        ForeignWeightsError: the encoder is no MedNeXt.
    """
    if not isinstance(encoder, MedNeXt):
        what = f"MONAI's MedNeXt has no counterpart of {encoder.name}"
        raise ForeignWeightsError(what, where=folder, way_out="Only mednext_* can be written")
    own = encoder.state_dict()
    state = {
        name.replace(f"{encoder.stem}.", "stem.", 1): tensor.detach().cpu().contiguous() for name, tensor in own.items()
    }
    blocks = [len(stage) for stage in encoder.enc_stages]  # type: ignore[arg-type]
    ratios = [_ratio(own[f"enc_stages.{level}.0.conv2.weight"]) for level in range(len(blocks))]
    arguments = {
        "in_channels": encoder.in_channels,
        "init_filters": encoder.feature_info[0].channels,
        "kernel_size": 3,
        "use_residual_connection": True,
        "blocks_down": blocks,
        "encoder_expansion_ratio": ratios,
        "blocks_bottleneck": len(encoder.bottleneck),
        "bottleneck_expansion_ratio": _ratio(own["bottleneck.0.conv2.weight"]),
        "blocks_up": blocks[::-1],
        "decoder_expansion_ratio": ratios[::-1],
    }
    with atomic_folder(Path(folder)) as partial:
        torch.save(state, partial / "mednext.pth")
        write_json(partial / "config.json", {"library": "fomo_ssl", "class": "MedNeXt", "arguments": arguments})


def _ratio(widening: torch.Tensor) -> int:
    """How much a block widens, by the weight (ratio * channels, channels, 1, 1, 1) that does it."""
    return len(widening) // widening.shape[1]
