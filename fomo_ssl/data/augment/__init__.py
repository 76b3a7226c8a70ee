"""Augmentation of whole batches on whatever device they are: parameters are drawn, recorded and then applied."""

from fomo_ssl.data.augment.augmenter import Augmenter

__all__ = ["Augmenter"]
