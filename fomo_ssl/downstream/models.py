"""A finetuned model: an encoder with the head of its task, and all that it has to remember to predict."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.bundle import (
    BundleConfig,
    InputContract,
    load_config,
    load_head_state,
    load_state,
    load_weights,
    save_bundle,
)
from fomo_ssl.core.errors import BundleError
from fomo_ssl.core.seeding import sample_key
from fomo_ssl.core.types import Triple
from fomo_ssl.downstream.tasks import Kind, Missing
from fomo_ssl.encoders import Encoder, LateFusion, PerSequence, create_encoder
from fomo_ssl.heads.pooling import Pool, PoolMaps
from fomo_ssl.heads.tasks import GlobalHead, build_head
from fomo_ssl.imaging.canonical import CanonicalSpec

Fusion = Literal["early", "late", "concat", "separate"]
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
Inflation = Literal["mean", "random"]
Axis = Literal["x", "y", "z"]
AXES: tuple[Axis, ...] = get_args(Axis)


@dataclass(frozen=True)
class TaskSpec:
    """What a finetuned bundle remembers of its task.

    Attributes:
        sequences: channels in order.
        classes: with the background for segmentation; 1 for regression.
        crop: voxels of the network's input.
        spacing, max_upsample, crop_foreground, normalisation: the canonical form, see `CanonicalSpec`.
        target_mean, target_std: of the training targets of a regression.
        missing: the policy for sessions without all sequences; `zeros` lets a prediction do without some as well.
        pool, pool_maps, pool_share: what a whole-scan task keeps of space, see `build_head`.
        mirror: axes over whose mirror images a prediction is averaged.
    """

    name: str
    kind: Kind
    sequences: tuple[str, ...]
    classes: int
    crop: Triple
    spacing: float | None
    max_upsample: float
    crop_foreground: bool
    target_mean: float = 0.0
    target_std: float = 1.0
    normalisation: str = "zscore_foreground"
    missing: Missing = "error"
    pool: Pool = "mean"
    pool_maps: PoolMaps = "last"
    pool_share: float = 0.002
    mirror: tuple[Axis, ...] = ()

    @property
    def canonical(self) -> CanonicalSpec:
        return CanonicalSpec(self.spacing, self.max_upsample, self.crop_foreground, self.normalisation)

    def standardise(self, values: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Regression targets as the network learns them; other kinds' values are left alone."""
        return (values - self.target_mean) / self.target_std


class TaskModel(nn.Module):
    """Encoder and head; segmentation gives logits of every voxel, the other kinds one row a scan."""

    def __init__(self, encoder: Encoder, spec: TaskSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.spec = encoder, spec
        with seeded(seed, "head"):
            self.head = build_head(spec.kind, encoder, spec.classes, spec.pool, spec.pool_maps, spec.pool_share)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b k *space"]:
        """Logits, or standardised values."""
        features = self.encoder.forward_features(x)
        own = isinstance(self.head, GlobalHead)
        outputs: Tensor = self.head(self.encoder.pool(features)) if own else self.head(x, features)
        return outputs


def forked_generators() -> contextlib.AbstractContextManager[None]:
    """A block after which the global generators of all devices are as before it."""
    # By number, because torch warns at length where it is to find several GPUs itself.
    forked: contextlib.AbstractContextManager[None] = torch.random.fork_rng(range(torch.cuda.device_count()))
    return forked


@contextlib.contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """torch's initialisers know the global generator only: seed it for the block, then leave it as it was."""
    with forked_generators():
        torch.manual_seed(sample_key(seed, 0, stream))
        yield


def pretrained_encoder(
    bundle: Path, sequences: int, fusion: Fusion = "early", inflation: Inflation = "mean", *, seed: int = 0
) -> Encoder:
    """A bundle's encoder for several sequences.

    Args:
        bundle: of a one-sequence encoder, or of one for as many sequences as asked for.
        sequences: how many.
        fusion: where they meet: in an inflated stem (`early`), or after the encoder has read each, by the mean of its
            maps (`late`) or side by side (`concat`); side by side with an encoder of its own for each (`separate`).
        inflation: how a stem is inflated: it weighs all sequences alike (`mean`), or each kernel at random (`random`).
        seed: of those weights.

    Raises:
        BundleError: see `load_weights`; also a bundle whose encoder joins several sequences itself, for `late`,
            `concat` and `separate`.
    """
    if fusion != "early" and sequences > 1:
        try:
            one = load_weights(bundle, 1)
        except BundleError as error:
            joined = load_config(bundle).in_channels
            if joined == 1:
                raise
            what = f"its encoder reads {joined} sequences at once, fusion={fusion} wants one that reads one"
            raise BundleError(what, where=bundle, way_out="Set fusion=early, or give another bundle") from error
        if fusion == "separate":
            return PerSequence([one, *(load_weights(bundle, 1) for _ in range(sequences - 1))])
        return LateFusion(one, sequences, concat=fusion == "concat")
    mixing = torch.Generator().manual_seed(sample_key(seed, 0, "stem")) if inflation == "random" else None
    return load_weights(bundle, sequences, mixing)


def scratch_encoder(
    name: str, arguments: Mapping[str, Any], sequences: int, fusion: Fusion = "early", *, seed: int = 0
) -> Encoder:
    """The same encoder with random weights.

    Raises:
        UnknownNameError: no such encoder.
    """
    with seeded(seed, "encoder"):
        if fusion == "separate" and sequences > 1:
            return PerSequence([create_encoder(name, 1, **arguments) for _ in range(sequences)])
        if fusion != "early" and sequences > 1:
            return LateFusion(create_encoder(name, 1, **arguments), sequences, concat=fusion == "concat")
        return create_encoder(name, sequences, **arguments)


def save_model(path: Path, model: TaskModel, training: Mapping[str, Any]) -> None:
    """Write a finetuned model as a bundle; `training` is a summary for people."""
    spec, encoder = model.spec, model.encoder
    contract = InputContract(
        spec.sequences, spec.spacing, spec.max_upsample, spec.crop, spec.normalisation, spec.crop_foreground
    )
    config = BundleConfig(
        encoder.name, dict(encoder.arguments), encoder.in_channels, contract, dict(training), task=asdict(spec)
    )
    save_bundle(path, encoder, config, head=model.head)


def load_model(path: Path) -> TaskModel:
    """A finetuned model, in evaluation mode.

    Raises:
        BundleError: no bundle, a damaged one, or one without a head.
    """
    config = load_config(path)
    if config.task is None:
        raise BundleError("this bundle has no task head", where=path, way_out="Give the bundle of a finetuned unit")
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.task.items()
        }
        spec = TaskSpec(**values)
    except TypeError as error:
        raise BundleError(f"damaged: {error}", where=path / "task.json", way_out="Copy the bundle again") from error
    model = TaskModel(load_weights(path, config.in_channels), spec)
    load_state(model.head, load_head_state(path), path / "head.safetensors")
    return model.eval()
