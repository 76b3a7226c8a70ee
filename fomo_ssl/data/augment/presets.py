"""Tables of transforms and their values. The order is the order of application."""

from collections.abc import Callable, Mapping
from typing import Any

from fomo_ssl.data.augment.intensity import BiasField, Blur, Contrast, Gamma, LowResolution, Noise
from fomo_ssl.data.augment.kspace import Gibbs, Motion
from fomo_ssl.data.augment.params import Transform
from fomo_ssl.data.augment.spatial import Affine, Elastic, Flip

Values = Mapping[str, Any]

# Left-right only: a head upside down is no anatomy.
SPATIAL: dict[str, Values] = {
    "flip": {"p": (0.5, 0.0, 0.0)},
    "elastic": {"p": 0.2, "cells": 4, "amplitude": 0.2},
    "affine": {"p": 0.4, "degrees": 15.0, "zoom": (0.85, 1.2)},
}

# As an image comes about: tissue contrast, coil, movement, resolution, and noise last.
INTENSITY: dict[str, Values] = {
    "gamma": {"p": 0.3, "exponent": (0.7, 1.5)},
    "contrast": {"p": 0.2, "factor": (0.75, 1.25), "shift": 0.25},
    "bias_field": {"p": 0.2, "cells": 2, "log_gain": 0.5},
    "motion": {"p": 0.1, "degrees": 2.0, "shift": 2.0},
    "blur": {"p": 0.15, "sigma": (0.4, 1.0)},
    "low_resolution": {"p": 0.15, "factor": (1.5, 4.0), "p_isotropic": 0.3},
    "gibbs": {"p": 0.1, "keep": (0.5, 0.85), "p_isotropic": 0.3},
    "noise": {"p": 0.2, "sigma": (0.0, 0.2)},
}

PRESETS: dict[str, dict[str, Values]] = {
    "none": {},
    "spatial": SPATIAL,
    "intensity": INTENSITY,
    "all": SPATIAL | INTENSITY,
}

TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "flip": Flip,
    "elastic": Elastic,
    "affine": Affine,
    "gamma": Gamma,
    "contrast": Contrast,
    "bias_field": BiasField,
    "motion": Motion,
    "blur": Blur,
    "low_resolution": LowResolution,
    "gibbs": Gibbs,
    "noise": Noise,
}
