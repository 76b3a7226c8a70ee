"""What a tissue looks like in a sequence: relaxation times and diffusion through the textbook signal equations.

Lesions are then changes of relaxation and diffusion, so that DWI, ADC and FLAIR of one lesion always agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32

TISSUES = (
    "csf", "gm", "wm", "deep_gm", "vessel", "dura", "bone", "fat", "muscle",
    "hyperintensity", "infarct", "old_infarct", "meningioma",
)  # fmt: skip
"""Tissue classes; a tissue index is a position in this tuple. Air is what is missing to a sum of one."""

B_VALUE = 1000.0
"""Diffusion weighting of `dwi_b1000` in s/mm2."""


@dataclass(frozen=True)
class Tissue:
    """Proton density (water = 1), T1, T2, T2* in ms at 3 T, ADC in 1e-3 mm2/s, and 1/s added to 1/T1 by gadolinium."""

    pd: float
    t1: float
    t2: float
    t2s: float
    adc: float
    uptake: float = 0.0


PROPERTIES: Mapping[str, Tissue] = MappingProxyType(
    {
        # Grey and white matter, fluid and fat: Stanisz et al. 2005 (doi 10.1002/mrm.20605), T2* Peters et al. 2007.
        "csf": Tissue(1.00, 4300.0, 1500.0, 700.0, 3.00),
        "gm": Tissue(0.80, 1450.0, 95.0, 60.0, 0.86, 0.03),
        "wm": Tissue(0.70, 850.0, 72.0, 50.0, 0.73, 0.02),
        "deep_gm": Tissue(0.77, 1150.0, 80.0, 32.0, 0.78, 0.03),
        "vessel": Tissue(0.80, 1600.0, 60.0, 14.0, 1.20, 2.4),
        "dura": Tissue(0.60, 1000.0, 50.0, 25.0, 0.90, 1.6),
        "bone": Tissue(0.10, 600.0, 20.0, 5.0, 0.40),
        "fat": Tissue(0.75, 380.0, 70.0, 40.0, 0.10),
        "muscle": Tissue(0.75, 1400.0, 45.0, 30.0, 1.40, 0.3),
        "hyperintensity": Tissue(0.82, 1450.0, 135.0, 70.0, 1.05),
        "infarct": Tissue(0.84, 1500.0, 135.0, 65.0, 0.40),
        "old_infarct": Tissue(0.90, 1900.0, 210.0, 110.0, 1.20),
        "meningioma": Tissue(0.76, 1350.0, 91.0, 60.0, 0.84, 2.2),
    }
)


@dataclass(frozen=True)
class Protocol:
    """Timings of one site in ms: repetition, echo and inversion times of its sequences."""

    t1_tr: float = 2300.0
    t1_ti: float = 1100.0
    t2_tr: float = 4500.0
    t2_te: float = 100.0
    flair_tr: float = 9000.0
    flair_ti: float = 2500.0
    flair_te: float = 120.0
    dwi_te: float = 80.0
    swi_te: float = 24.0


SEQUENCE_NAMES = ("t1", "t1c", "t2", "flair", "dwi_b0", "dwi_b1000", "swi")
"""Sequences with a signal equation of their own; an ADC map is computed from the two diffusion images."""


def signals(sequence: str, protocol: Protocol | None = None) -> Float32[np.ndarray, "_"]:
    """Signal of each of `TISSUES` in one of `SEQUENCE_NAMES`, as a fraction of fully relaxed water; float32 (tissues,).

    Raises:
        ValueError: no signal equation for this sequence.
    """
    if sequence not in SEQUENCE_NAMES:
        raise ValueError(f"no signal equation for sequence {sequence!r}, known: {', '.join(SEQUENCE_NAMES)}")
    chosen = protocol or Protocol()
    return np.array([_signal(PROPERTIES[name], name, sequence, chosen) for name in TISSUES], dtype=np.float32)


def _signal(tissue: Tissue, name: str, sequence: str, p: Protocol) -> float:
    if sequence in ("t1", "t1c"):
        rate = 1e3 / tissue.t1 + (tissue.uptake if sequence == "t1c" else 0.0)
        return tissue.pd * _inversion(1e3 / rate, p.t1_tr, p.t1_ti)
    if sequence == "t2":
        return tissue.pd * _recovery(tissue.t1, p.t2_tr) * _decay(tissue.t2, p.t2_te)
    if sequence == "flair":
        return tissue.pd * _inversion(tissue.t1, p.flair_tr, p.flair_ti) * _decay(tissue.t2, p.flair_te)
    if sequence == "swi":
        return tissue.pd * _recovery(tissue.t1, 1500.0) * _decay(tissue.t2s, p.swi_te)
    weight = float(np.exp(-B_VALUE * tissue.adc * 1e-3)) if sequence == "dwi_b1000" else 1.0
    saturation = 0.1 if name == "fat" else 1.0  # Echo-planar images are acquired with fat saturation.
    return tissue.pd * saturation * _recovery(tissue.t1, 5000.0) * _decay(tissue.t2, p.dwi_te) * weight


def _recovery(t1: float, tr: float) -> float:
    return float(1.0 - np.exp(-tr / t1))


def _inversion(t1: float, tr: float, ti: float) -> float:
    return float(abs(1.0 - 2.0 * np.exp(-ti / t1) + np.exp(-tr / t1)))


def _decay(t2: float, te: float) -> float:
    return float(np.exp(-te / t2))
