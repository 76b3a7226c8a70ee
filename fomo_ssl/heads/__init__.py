"""What stands on an encoder: decoders, projectors and task heads."""
