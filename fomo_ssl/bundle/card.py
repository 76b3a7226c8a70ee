"""The README of a bundle."""

from typing import Any

from fomo_ssl.bundle.config import BundleConfig


def model_card(config: BundleConfig, n_parameters: int) -> str:
    """The bundle's README: what it is, what it was trained on, what it expects, how to load it."""
    contract, training = config.input, config.training
    spacing = "the scan's own spacing" if contract.spacing is None else f"{contract.spacing:g} mm"
    box = "foreground box" if contract.crop_foreground else "uncropped"
    what = "finetuned model" if config.task else "pretrained encoder"
    facts = "\n".join(f"| {key} | {_cell(value)} |" for key, value in training.items() if not isinstance(value, dict))
    return f"""# {config.encoder}: {what} for 3D brain MRI

{n_parameters / 1e6:.2f} M parameters, {config.in_channels} input sequence(s). Written by fomo_ssl.

## Training
| | |
|---|---|
{facts}

All settings are in `config.json`.

## Input
RAS+ volume, {box}, {spacing}, no axis resampled finer than its own spacing / {contract.max_upsample:g};
intensity normalisation `{contract.normalisation}`; training crops of {" x ".join(map(str, contract.crop))} voxels.
Sequences seen: {", ".join(contract.sequences) or "none recorded"}. `embed` does all of this to a raw scan.

## Use
```python
from fomo_ssl import load_encoder

encoder = load_encoder("path/to/this/folder")
embedding = encoder.embed("scan.nii.gz")
```
The weights are safetensors; loading them runs no code from this folder. Not a medical device.
"""


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
