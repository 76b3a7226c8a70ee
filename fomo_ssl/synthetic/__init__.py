"""Brains from nothing: a generated multi-contrast study with labels."""

from fomo_ssl.synthetic.phantoms import phantom
from fomo_ssl.synthetic.study import StudySpec, generate_corpus, generate_task

__all__ = ["StudySpec", "generate_corpus", "generate_task", "phantom"]
