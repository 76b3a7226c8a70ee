"""A generated study on disk: a corpus for pretraining and three labelled tasks."""

from fomo_ssl.synthetic.phantoms import phantom

__all__ = ["phantom"]
