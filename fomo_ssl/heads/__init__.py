"""What sits on an encoder: decoders, projectors and task heads."""
