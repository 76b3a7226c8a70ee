"""From trees of NIfTI files to a store."""
