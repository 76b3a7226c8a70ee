"""Augmentation on the device, batched; sampled parameters are data."""
