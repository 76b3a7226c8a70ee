"""All of a bundle but the weights: `config.json` and `task.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import BundleError
from fomo_ssl.core.types import Triple
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.intensity import NORMALISATIONS

SCHEMA = 1


@dataclass(frozen=True)
class InputContract:
    """What the encoder was trained on, and so what it expects.

    Attributes:
        sequences: names of the sequences seen, sorted.
        spacing: voxel edge in mm; None = the scan's own.
        max_upsample: no axis is resampled finer than its own spacing divided by this.
        crop: voxels along x, y, z of a training crop.
        normalisation: name of the intensity normalisation.
        crop_foreground: whether the air around the head is cut away.
    """

    sequences: tuple[str, ...]
    spacing: float | None
    max_upsample: float
    crop: Triple
    normalisation: str = "zscore_foreground"
    crop_foreground: bool = True

    @property
    def spec(self) -> CanonicalSpec:
        """The preprocessing that gives the encoder what it expects."""
        return CanonicalSpec(self.spacing, self.max_upsample, self.crop_foreground, self.normalisation)


@dataclass(frozen=True)
class BundleConfig:
    """All of a bundle but the weights.

    Attributes:
        encoder, encoder_args, in_channels: what `create_encoder` needs.
        input: the input contract.
        training: summary for people: objective, samples, data fingerprint, configuration.
        task: head and task of a finetuned model; None for a bare encoder.
        schema: version of the folder's layout.
    """

    encoder: str
    encoder_args: dict[str, Any]
    in_channels: int
    input: InputContract
    training: dict[str, Any]
    task: dict[str, Any] | None = None
    schema: int = SCHEMA


def load_config(path: Path) -> BundleConfig:
    """Read a bundle's configuration.

    Raises:
        BundleError: no bundle there, a damaged one, or one of a newer schema or an unknown normalisation.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise BundleError("no bundle here: config.json is missing", where=path, way_out="Give the folder of a bundle")
    body = _read_json(path / "config.json")
    if not isinstance(body.get("schema"), int):
        raise BundleError("no schema version", where=path / "config.json", way_out="Copy the bundle again")
    if body["schema"] > SCHEMA:
        newer = f"schema {body['schema']} is newer than this version of fomo_ssl, which reads up to {SCHEMA}"
        raise BundleError(newer, where=path, way_out="Upgrade fomo_ssl")
    task = _read_json(path / "task.json") if (path / "task.json").exists() else None
    try:
        contract, arguments = InputContract(**_tuples(body.pop("input"))), _tuples(body.pop("encoder_args"))
        config = BundleConfig(input=contract, encoder_args=arguments, **body, task=task)
    except (KeyError, TypeError) as error:
        raise BundleError(f"damaged: {error}", where=path / "config.json", way_out="Copy the bundle again") from error
    if contract.normalisation not in NORMALISATIONS:
        unknown = f"unknown normalisation {contract.normalisation!r}, known: {', '.join(NORMALISATIONS)}"
        raise BundleError(unknown, where=path / "config.json", way_out="Upgrade fomo_ssl")
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"no valid JSON: {error}", where=file, way_out="Copy the bundle again") from error
    if not isinstance(body, dict):
        raise BundleError("no JSON object", where=file, way_out="Copy the bundle again")
    return body


def _tuples(value: Any) -> Any:
    """Lists as tuples all through: JSON has no tuples, and encoder arguments and crops are tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
