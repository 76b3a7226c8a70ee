"""Pretraining: the Lightning module, checkpoints, runs."""
