"""Small stores of generated scans."""

from pathlib import Path

from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.store import StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.synthetic.phantoms import phantom


def phantom_store(path: Path, subjects: int, edge: int) -> Path:
    """A T1 and a FLAIR of each subject, `edge` voxels a side."""
    spec = CanonicalSpec(spacing=None)
    with StoreWriter.create(path, spec) as writer:
        for subject in range(subjects):
            for sequence in ("t1", "flair"):
                row = ScanRow("site", f"sub_{subject}", "ses_1", sequence, f"sub_{subject}/{sequence}.nii.gz")
                writer.add(row, canonicalise(phantom(subject, (edge, edge, edge), sequence), spec))
    return path
