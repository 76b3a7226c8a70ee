"""3D encoders behind one contract: `create_encoder("vit_s_p8")`, `list_encoders("resenc_*")`."""

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.encoders.base import Encoder, create_encoder, list_encoders, load_encoder_state, register_encoder
from fomo_ssl.encoders.mednext import MedNeXt
from fomo_ssl.encoders.multisequence import LateFusion
from fomo_ssl.encoders.per_sequence import PerSequence
from fomo_ssl.encoders.primus import Primus
from fomo_ssl.encoders.resenc import ResEnc
from fomo_ssl.encoders.swin import Swin
from fomo_ssl.encoders.unet import UNetEncoder
from fomo_ssl.encoders.vit import ViT

__all__ = [
    "Encoder",
    "FeatureInfo",
    "LateFusion",
    "MedNeXt",
    "PerSequence",
    "Primus",
    "ResEnc",
    "Swin",
    "UNetEncoder",
    "ViT",
    "create_encoder",
    "list_encoders",
    "load_encoder_state",
    "register_encoder",
]
