"""A pretraining that starts from the bundle of another, or from imported weights: `init=BUNDLE`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fomo_ssl.bundle import load_config, load_objective_state, load_seen, load_weights
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seen import SeenData
from fomo_ssl.encoders import Encoder
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.training.record import changes


def initial_encoder(bundle: Path, wanted: Encoder) -> Encoder:
    """The bundle's encoder, in training mode, where it is the one that the run asks for.

    Raises:
        BundleError: no bundle there, or one that does not load.
        ConfigError: the run asks for another encoder, or for one with other arguments.
    """
    config = load_config(bundle)
    if config.encoder != wanted.name:
        what = f"init holds {config.encoder}, the run asks for {wanted.name}"
        raise ConfigError(what, where=bundle, way_out=f"Give encoder={config.encoder}")
    for key in changes(config.encoder_args, wanted.arguments):
        held, asked = (json.dumps(given.get(key)).replace(" ", "") for given in (config.encoder_args, wanted.arguments))
        what = f"init holds an encoder with {key}={held}, the run asks for {asked}"
        raise ConfigError(what, where=bundle, way_out=f"Give encoder.{key}={held}")
    return load_weights(bundle, wanted.in_channels).train()


def initial_state(bundle: Path, recipe: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Decoder, projector and teacher, where the bundle has those of an objective of the same settings."""
    trained = load_config(bundle).training.get("recipe", {}).get("objective")
    return load_objective_state(bundle) if trained == recipe else None


def describe_initial(bundle: Path, recipe: Mapping[str, Any], spec: CanonicalSpec) -> str:
    """What is taken from the bundle, and whether it was trained on other input: a line."""
    config = load_config(bundle)
    anew = initial_state(bundle, recipe) is None
    line = f"init: encoder {'alone, the objective begins anew' if anew else 'and objective'}"
    own = config.input.spec
    if (own.spacing, own.normalisation) != (spec.spacing, spec.normalisation):
        line += f"; it was trained at {own.spacing} mm with {own.normalisation}, the store has {spec.spacing} mm with "
        line += spec.normalisation
    return line


def with_initial(seen: SeenData, bundle: Path | None) -> SeenData:
    """What a run has seen, and what its initial weights had seen before."""
    if bundle is None:
        return seen
    before = load_seen(bundle)
    if before is None:
        return SeenData(seen.subjects, seen.files, complete=False)
    subjects, files = np.union1d(seen.subjects, before.subjects), np.union1d(seen.files, before.files)
    return SeenData(subjects, files, before.complete)
