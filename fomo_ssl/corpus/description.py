"""Scans with all that is known of them before they are read: ids and sequence by the tree, the rest by its tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fomo_ssl.corpus.layouts import ScanRow, find_scans, root_of, scan_row, straight
from fomo_ssl.corpus.metadata import Metadata, MetadataTable
from fomo_ssl.corpus.names import FALLBACK, sequence_name


@dataclass(frozen=True)
class DescribedScan:
    """A scan and where it lies: `row.path` is relative to `source`."""

    source: Path
    row: ScanRow
    metadata: Metadata

    @property
    def path(self) -> Path:
        """Of the file, or `archive.zip!member`."""
        return self.source / self.row.path


def describe(source: Path, below: str = "") -> list[DescribedScan]:
    """The scans of a source in their final order, or those in a folder of it.

    The dataset is the tree's, else the tables', else the folder's name; the sequence the name's, else the tables'.

    Raises:
        FomoSSLError: the folder does not exist or holds no image.
    """
    return _described(source, find_scans(source, below))


def describe_paths(paths: Iterable[Path]) -> list[DescribedScan]:
    """The scans of files and folders, each once; a part of a tree is described as in the whole of it.

    Files that are named are taken, there or not: reading them says what is wrong.

    Raises:
        FomoSSLError: a folder without an image.
    """
    found: list[DescribedScan] = []
    files: dict[Path, list[ScanRow]] = {}
    for path in paths:
        root = root_of(path)
        if path.is_dir():
            below = straight(path).relative_to(straight(root)).as_posix()
            found += describe(root, "" if below == "." else below)
        else:
            files.setdefault(root, []).append(scan_row(root, path))
    found += [scan for root, rows in files.items() for scan in _described(root, rows)]
    return list({straight(scan.path): scan for scan in found}.values())


def _described(source: Path, rows: Sequence[ScanRow]) -> list[DescribedScan]:
    table = MetadataTable.read(source, {row.dataset for row in rows})
    described = []
    for row in rows:
        dataset = row.dataset or table.dataset(row) or source.resolve().name
        sequence = sequence_name(table.modality(row)) if row.sequence == FALLBACK else row.sequence
        named = replace(row, dataset=dataset, sequence=sequence)
        described.append(DescribedScan(source, named, table.of(row)))
    return described
