"""Weights of other projects: one file a format, each tensor accounted for."""

from fomo_ssl.encoders.foreign.transfer import Imported, Moved, TransferReport, read_tensors, transfer

__all__ = ["Imported", "Moved", "TransferReport", "read_tensors", "transfer"]
