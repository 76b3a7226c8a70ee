"""A released encoder or model: a folder of plain JSON and safetensors that loads without training code or pickle.

    config.json                        schema version, encoder and its arguments, input contract, training summary
    encoder.safetensors                the encoder
    head.safetensors, task.json        a finetuned model has them too
    pretraining/objective.safetensors  what the objective throws away, to continue pretraining
    pretraining/seen.safetensors       digests of the subjects and files that were trained on, to recognise them
    README.md                          model card

The same weights and configuration give the same bytes: nothing in the folder depends on time or machine.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fomo_ssl.core.errors import BundleError, Reason, RejectedScan, UnknownNameError
from fomo_ssl.core.files import atomic_folder, write_json, write_text
from fomo_ssl.core.seen import SeenData
from fomo_ssl.core.types import Triple
from fomo_ssl.encoders import create_encoder
from fomo_ssl.encoders.base import Encoder, inflate_stem
from fomo_ssl.imaging import nifti
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.header import is_usable
from fomo_ssl.imaging.intensity import NORMALISATIONS, normalise
from fomo_ssl.imaging.nifti import Volume

SCHEMA = 1
_SEEN = "pretraining/seen.safetensors"
MAX_EMBED_VOXELS = 2**25
"""Largest volume, after preprocessing, that `embed` takes in one piece: 320^3, any head at 1 mm with room to spare."""


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


class ReleasedEncoder(nn.Module):
    """A loaded encoder with its input contract; `forward` and `forward_features` are the encoder's own."""

    def __init__(self, encoder: Encoder, config: BundleConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b e"]:
        embedding: Tensor = self.encoder(x)
        return embedding

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """Feature maps of normalised input, finest first."""
        return self.encoder.forward_features(x)

    @torch.no_grad()  # not inference mode: its tensors can enter no training, such as that of a probe
    def embed(self, scan: Any) -> Float[Tensor, "e"]:
        """One embedding of one whole scan, preprocessed as the training data were.

        Args:
            scan: a path to a NIfTI file, a `Volume`, a NIfTI image of nibabel, or a pair (array x y z, affine).

        Raises:
            RejectedScan: the scan cannot be read, is empty, or has over `MAX_EMBED_VOXELS` voxels after resampling.
        """
        volume = _as_volume(scan)
        canonical = canonicalise(volume, self.config.input.spec)
        _check_embed_size(canonical.data)
        return self.embed_normalised(normalise(canonical.data, canonical.stats))

    @torch.no_grad()
    def embed_normalised(self, image: np.ndarray) -> Float[Tensor, "e"]:
        """One embedding of one whole scan in canonical form with normalised intensities, such as a store holds.

        Args:
            image: (x, y, z) float.

        Raises:
            RejectedScan: over `MAX_EMBED_VOXELS` voxels.
        """
        _check_embed_size(image)
        x = torch.from_numpy(image).float()
        first = next(self.encoder.parameters())
        training = self.encoder.training
        self.encoder.eval()
        try:
            x = x.to(first.device, first.dtype).expand(1, self.config.in_channels, *x.shape)
            embedding: Tensor = self.encoder(x)
        finally:
            self.encoder.train(training)
        return embedding[0]


def save_bundle(
    path: Path,
    encoder: Encoder,
    config: BundleConfig,
    *,
    head: nn.Module | None = None,
    pretraining: Mapping[str, Tensor] | None = None,
    seen: SeenData | None = None,
) -> None:
    """Write a bundle; `path` is replaced as a whole or left as it was.

    Args:
        path: the folder.
        encoder: its weights.
        config: `config.encoder` and its arguments must build this encoder again.
        head: a finetuned model's head.
        pretraining: the objective's own tensors.
        seen: the subjects and scans that the encoder was pretrained on.
    """
    with atomic_folder(Path(path)) as folder:
        _save_tensors(folder / "encoder.safetensors", encoder.state_dict())
        if head is not None:
            _save_tensors(folder / "head.safetensors", head.state_dict())
        if pretraining is not None:
            (folder / "pretraining").mkdir()
            _save_tensors(folder / "pretraining" / "objective.safetensors", pretraining)
        if seen is not None:
            (folder / "pretraining").mkdir(exist_ok=True)
            tensors = {"subjects": torch.from_numpy(seen.subjects), "files": torch.from_numpy(seen.files)}
            _save_tensors(folder / _SEEN, tensors)
        if config.task is not None:
            write_json(folder / "task.json", config.task)
        body = {name: value for name, value in asdict(config).items() if name != "task"}
        write_json(folder / "config.json", {"schema": body.pop("schema"), **body})
        write_text(folder / "README.md", model_card(config, sum(p.numel() for p in encoder.parameters())))


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


def load_weights(path: Path, in_channels: int = 1, mixing: torch.Generator | None = None) -> Encoder:
    """The bare encoder, in evaluation mode.

    Args:
        path: a bundle.
        in_channels: number of input sequences; the stem of a one-sequence encoder is inflated to it.
        mixing: draws how the inflated stem weighs the sequences; None weighs them alike. See `inflate_stem`.

    Raises:
        BundleError: see `load_config`; also an encoder this version does not know, or weights that do not fit it.
    """
    path = Path(path)
    config = load_config(path)
    try:
        encoder = create_encoder(config.encoder, in_channels=in_channels, **config.encoder_args)
    except (UnknownNameError, TypeError, ValueError) as error:
        way_out = "Upgrade fomo_ssl, or import the module that registers the encoder"
        raise BundleError(f"cannot build its encoder: {error}", where=path, way_out=way_out) from error
    file = path / "encoder.safetensors"
    state = _load_tensors(file)
    own, stem = encoder.state_dict(), f"{encoder.stem}.weight"
    if in_channels != config.in_channels:
        way_out = f"Use {config.in_channels} sequences"
        if stem in own and stem in state:
            try:  # an encoder that reads each sequence on its own has a stem of one, however many there are
                state[stem] = inflate_stem(state[stem], own[stem].shape[1], mixing)
            except ValueError as error:
                raise BundleError(str(error), where=path, way_out=way_out) from error
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in state.items()}:
            # An encoder or a weight for each sequence.
            what = f"its weights are for {config.in_channels} sequences, not {in_channels}"
            raise BundleError(what, where=path, way_out=way_out)
    load_state(encoder, state, file)
    return encoder.eval()


def load_encoder(path: str | Path) -> ReleasedEncoder:
    """A released encoder, ready to embed scans.

    Raises:
        BundleError: see `load_weights`.
    """
    config = load_config(Path(path))
    return ReleasedEncoder(load_weights(Path(path), config.in_channels), config).eval()


def bundle_digest(path: Path) -> str:
    """A digest of what decides a bundle's outputs: configuration and weights, not the card or what pretraining keeps.

    Raises:
        BundleError: no bundle there.
    """
    load_config(path)
    content = hashlib.blake2b(digest_size=16)
    for name in ("config.json", "encoder.safetensors", "task.json", "head.safetensors"):
        if (file := Path(path) / name).is_file():
            with file.open("rb") as opened:
                own = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16))
            content.update(f"{name} {own.hexdigest()}\n".encode())
    return content.hexdigest()


def load_seen(path: Path) -> SeenData | None:
    """The subjects and scans that a bundle's encoder was pretrained on; None where the bundle does not say.

    Raises:
        BundleError: the file is damaged.
    """
    file = Path(path) / _SEEN
    if not file.is_file():
        return None
    tensors = _load_tensors(file)
    if tensors.keys() != {"subjects", "files"}:
        raise BundleError("holds other tensors than subjects and files", where=file, way_out="Copy the bundle again")
    return SeenData(tensors["subjects"].numpy(), tensors["files"].numpy())


def load_head_state(path: Path) -> dict[str, Tensor]:
    """The head's tensors of a finetuned model.

    Raises:
        BundleError: the bundle holds a bare encoder, or the file is damaged.
    """
    return _load_tensors(Path(path) / "head.safetensors")


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors into a module; every name and shape must fit.

    Raises:
        BundleError: naming the first tensor that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    way_out = "The file is damaged or belongs to another encoder: copy the bundle again"
    for problem, names in (("missing", sorted(own.keys() - state)), ("unexpected", sorted(state.keys() - own))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BundleError(f"{problem} tensor {names[0]}{more}", where=where, way_out=way_out)
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} and not {tuple(tensor.shape)}"
            raise BundleError(f"tensor {name} is {shapes}", where=where, way_out=way_out)
    module.load_state_dict(dict(state))


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


def _check_embed_size(image: np.ndarray) -> None:
    if image.size > MAX_EMBED_VOXELS:
        raise RejectedScan(Reason.TOO_LARGE, f"{image.size} voxels, at most {MAX_EMBED_VOXELS} are embedded")


def _as_volume(scan: Any) -> Volume:
    if isinstance(scan, Volume):
        return scan
    if isinstance(scan, str | Path):
        return nifti.read(scan)
    if isinstance(scan, tuple):
        data, affine = scan
    else:  # a spatial image of nibabel, which need not be imported to be recognised
        data, affine = scan.get_fdata(), scan.affine
    values, affine = np.array(data, dtype=np.float32), np.asarray(affine, dtype=np.float64)
    while values.ndim > 3 and values.shape[-1] == 1:  # one volume, as in a file
        values = values[..., 0]
    if affine.shape != (4, 4) or not is_usable(affine):
        raise RejectedScan(Reason.BAD_AFFINE, f"of shape {affine.shape}, expected 4 x 4, finite and not singular")
    if not values.size:
        raise RejectedScan(Reason.TOO_SMALL, f"shape {values.shape}")
    return Volume(values, affine, nifti.zero_non_finite(values))


def _save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, file)
    # It also makes files that only their owner can read; the folder's own mode follows the umask, as other files do.
    file.chmod(file.parent.stat().st_mode & 0o666)


def _load_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BundleError(f"{file.name} is missing", where=file.parent, way_out="Copy the bundle again")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"damaged or truncated: {error}", where=file, way_out="Copy the bundle again") from error


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


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
