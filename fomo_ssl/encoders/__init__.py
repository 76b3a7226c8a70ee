"""3D encoders behind one contract: `create_encoder("vit_s_p8")`, `list_encoders("resenc_*")`."""

from fomo_ssl.encoders.base import Encoder, FeatureInfo, create_encoder, list_encoders, register_encoder

__all__ = ["Encoder", "FeatureInfo", "create_encoder", "list_encoders", "register_encoder"]
