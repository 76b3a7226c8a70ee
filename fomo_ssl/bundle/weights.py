"""Writing a bundle as a whole, and reading its tensors."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fomo_ssl.bundle.card import model_card
from fomo_ssl.bundle.config import BundleConfig, load_config
from fomo_ssl.core.errors import BundleError, UnknownNameError
from fomo_ssl.core.files import atomic_folder, write_json, write_text
from fomo_ssl.core.seen import SeenData
from fomo_ssl.encoders import create_encoder
from fomo_ssl.encoders.base import Encoder, inflate_stem

_OBJECTIVE, _SEEN = "pretraining/objective.safetensors", "pretraining/seen.safetensors"


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
            _save_tensors(folder / _OBJECTIVE, pretraining)
        if seen is not None:
            (folder / "pretraining").mkdir(exist_ok=True)
            tensors = {"subjects": torch.from_numpy(seen.subjects), "files": torch.from_numpy(seen.files)}
            _save_tensors(folder / _SEEN, tensors | {"complete": torch.tensor(seen.complete)})
        if config.task is not None:
            write_json(folder / "task.json", config.task)
        body = {name: value for name, value in asdict(config).items() if name != "task"}
        write_json(folder / "config.json", {"schema": body.pop("schema"), **body})
        write_text(folder / "README.md", model_card(config, sum(p.numel() for p in encoder.parameters())))


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
        way_out = "Upgrade fomo_ssl, or name the module that registers the encoder in FOMO_SSL_IMPORT"
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


def load_seen(path: Path) -> SeenData | None:
    """The subjects and scans that a bundle's encoder was pretrained on; None where the bundle does not say.

    Raises:
        BundleError: the file is damaged.
    """
    file = Path(path) / _SEEN
    if not file.is_file():
        return None
    tensors = _load_tensors(file)
    if tensors.keys() != {"subjects", "files", "complete"}:
        raise BundleError(f"holds the tensors {', '.join(tensors)}", where=file, way_out="Copy the bundle again")
    return SeenData(tensors["subjects"].numpy(), tensors["files"].numpy(), bool(tensors["complete"]))


def load_objective_state(path: Path) -> dict[str, Tensor] | None:
    """What the objective keeps beside the encoder, for continuation; None where the bundle has none.

    Raises:
        BundleError: the file is damaged.
    """
    file = Path(path) / _OBJECTIVE
    return _load_tensors(file) if file.is_file() else None


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
