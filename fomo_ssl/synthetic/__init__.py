"""Brains from nothing: a generated multi-contrast study with labels."""

from fomo_ssl.synthetic.phantoms import phantom

__all__ = ["phantom"]
