"""The small originals of `fixtures/`: their weights, input and answers; see `make_primus_fixture.py`."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "fixtures"


def original(order: str) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[int, ...], tuple[int, ...]]:
    """Weights under their own names, answers, patch size and crop of `primus_<order>`."""
    with safe_open(FOLDER / f"primus_{order}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        facts = file.metadata()
    weights = {name: value for name, value in tensors.items() if name.startswith(("eva.", "down_projection."))}
    answers = {name: value for name, value in tensors.items() if name not in weights}
    return weights, answers, tuple(json.loads(facts["patch"])), tuple(json.loads(facts["size"]))
