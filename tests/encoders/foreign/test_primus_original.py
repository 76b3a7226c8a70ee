"""Primus gives the numbers of the original, whose answers are kept in `fixtures/`."""

import torch
from originals import original

from fomo_ssl.encoders import create_encoder


@torch.no_grad()
def test_the_numbers_are_the_originals() -> None:
    weights, answers, patch, size = original("whd")
    grid = tuple(n // p for n, p in zip(size, patch, strict=True))
    encoder = create_encoder("primus_t", dim=36, depth=4, heads=2, patch_size=patch, learned_grid=grid).eval()
    state = {name.removeprefix("eva."): value for name, value in weights.items()}
    state["positions"] = state.pop("pos_embed").transpose(1, 2).unflatten(2, grid)
    for kind in ("weight", "bias"):
        state[f"patch_embed.{kind}"] = state.pop(f"down_projection.proj.{kind}")
    encoder.load_state_dict(state)
    torch.testing.assert_close(encoder.forward_features(answers["image"])[-1], answers["maps"], atol=1e-5, rtol=0)
    kept, _ = encoder.forward_tokens(answers["image"], answers["keep"])
    torch.testing.assert_close(kept, answers["kept_features"], atol=1e-5, rtol=0)
