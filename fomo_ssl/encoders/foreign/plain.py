"""Any encoder as a plain state dict, for code that knows nothing of this package."""

from pathlib import Path
from typing import Any

import torch

from fomo_ssl.core.files import atomic_folder, write_json
from fomo_ssl.encoders.base import Encoder

NAME = "state_dict"


def write(encoder: Encoder, folder: Path, facts: Any = None) -> None:
    """Write `encoder.pth`, opened by `torch.load(weights_only=True)`, and `config.json`.

    Names are those of `create_encoder(name, in_channels, **arguments).state_dict()`, with these arguments in
    `config.json`; docs/reference/foreign_formats.md says which other project uses the same names. Beside them stand the
    name of the stem, the prefixes of each layer's names (the first holds the stem, the others are the body), and each
    map's channels and stride.

    Args:
        encoder: any.
        folder: replaced as a whole or left as it was.
        facts: not part of this format.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    body = {
        "library": "fomo_ssl",
        "encoder": encoder.name,
        "in_channels": encoder.in_channels,
        "arguments": encoder.arguments,
        "stem": encoder.stem,
        "layers": encoder.layer_groups(),
        "maps": [{"channels": level.channels, "stride": list(level.stride)} for level in encoder.feature_info],
    }
    with atomic_folder(Path(folder)) as partial:
        torch.save(state, partial / "encoder.pth")
        write_json(partial / "config.json", body)
