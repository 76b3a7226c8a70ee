"""A released encoder or model: a folder of plain JSON and safetensors that loads without training code or pickle.

    config.json                        schema version, encoder and its arguments, input contract, training summary
    encoder.safetensors                the encoder
    head.safetensors, task.json        a finetuned model has them too
    pretraining/objective.safetensors  what the objective throws away, to continue pretraining
    pretraining/seen.safetensors       digests of the subjects and files that were trained on, to recognise them
    README.md                          model card

The same weights and configuration give the same bytes: nothing in the folder depends on time or machine.
"""

from fomo_ssl.bundle.config import BundleConfig, InputContract, load_config
from fomo_ssl.bundle.released import ReleasedEncoder, load_encoder
from fomo_ssl.bundle.weights import (
    bundle_digest,
    load_head_state,
    load_objective_state,
    load_seen,
    load_state,
    load_weights,
    save_bundle,
)

__all__ = [
    "BundleConfig",
    "InputContract",
    "ReleasedEncoder",
    "bundle_digest",
    "load_config",
    "load_encoder",
    "load_head_state",
    "load_objective_state",
    "load_seen",
    "load_state",
    "load_weights",
    "save_bundle",
]
