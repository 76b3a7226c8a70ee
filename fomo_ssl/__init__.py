"""Self-supervised pretraining on 3D brain MRI and few-shot transfer to clinical tasks.

Names are loaded on first use, so that `import fomo_ssl` costs milliseconds and no torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "create_encoder", "list_encoders", "load_encoder", "register_encoder"]

if TYPE_CHECKING:
    from fomo_ssl.bundle import load_encoder
    from fomo_ssl.encoders import create_encoder, list_encoders, register_encoder

_ROOMS = {
    "create_encoder": "fomo_ssl.encoders",
    "list_encoders": "fomo_ssl.encoders",
    "register_encoder": "fomo_ssl.encoders",
    "load_encoder": "fomo_ssl.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return __all__
