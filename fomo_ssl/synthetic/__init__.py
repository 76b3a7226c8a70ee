"""Brains from nothing: a generated multi-contrast study with labels."""
