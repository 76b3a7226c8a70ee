"""Self-supervised objectives, one a file: `create_objective("mae", encoder, mask_ratio=0.6)`."""

from typing import Any

from fomo_ssl.encoders.base import Encoder
from fomo_ssl.objectives.alignment import Alignment
from fomo_ssl.objectives.base import Objective, ObjectiveOutput, Preview, objectives
from fomo_ssl.objectives.contrastive import Contrastive
from fomo_ssl.objectives.cross_sequence import CrossSequence
from fomo_ssl.objectives.denoising import Denoising
from fomo_ssl.objectives.genesis import Genesis
from fomo_ssl.objectives.hybrid import Hybrid
from fomo_ssl.objectives.mae import MAE
from fomo_ssl.objectives.moco import MoCo
from fomo_ssl.objectives.self_distillation import SelfDistillation
from fomo_ssl.objectives.sequence_class import SequenceClass
from fomo_ssl.objectives.simmim import SimMIM
from fomo_ssl.objectives.vicreg import VICReg
from fomo_ssl.objectives.voco import VoCo
from fomo_ssl.objectives.volume_fusion import VolumeFusion

__all__ = [
    "MAE",
    "Alignment",
    "Contrastive",
    "CrossSequence",
    "Denoising",
    "Genesis",
    "Hybrid",
    "MoCo",
    "Objective",
    "ObjectiveOutput",
    "Preview",
    "SelfDistillation",
    "SequenceClass",
    "SimMIM",
    "VICReg",
    "VoCo",
    "VolumeFusion",
    "create_objective",
    "list_objectives",
]


def create_objective(name: str, encoder: Encoder, **kwargs: Any) -> Objective:
    """Build an objective around an encoder.

    Args:
        name: one of `list_objectives()`.
        encoder: the encoder to pretrain; the objective trains it in place.
        kwargs: arguments of the objective.

    Raises:
        UnknownNameError: no such objective; near names are listed.
    """
    return objectives.create(name, encoder=encoder, **kwargs)


def list_objectives(pattern: str = "*") -> list[str]:
    """Names of registered objectives that match a shell wildcard."""
    return objectives.names(pattern)
