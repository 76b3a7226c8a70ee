"""One embedding per scan, as a table."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import FomoSSLError, RejectedScan, entry
from fomo_ssl.core.files import atomic_file

if TYPE_CHECKING:
    from fomo_ssl.bundle import ReleasedEncoder

FORMATS = (".parquet", ".csv")


def find_scans(paths: Sequence[Path]) -> list[Path]:
    """The files given, and all NIfTI and Analyze images below the folders given, in sorted order.

    Raises:
        FomoSSLError: nothing is there, or no image is.
    """
    from fomo_ssl.imaging.nifti import is_image_name

    scans: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.is_file() and is_image_name(p.name))
            # A pair is one scan: its header names no second one.
            scans += sorted(p for p in inside if not p.name.lower().endswith((".hdr", ".hdr.gz")))
        else:
            scans.append(path)
    if not scans:
        raise FomoSSLError("no NIfTI file in there", where=", ".join(map(str, paths)), way_out="give files or folders")
    return scans


def embed_all(
    encoder: "ReleasedEncoder", scans: Sequence[Path]
) -> tuple[list[Path], np.ndarray, list[tuple[Path, RejectedScan]]]:
    """Embed scan after scan.

    Returns:
        The scans that worked, their embeddings (n, e) float32, and the rejected ones with their verdicts.
    """
    from rich.console import Console
    from rich.progress import track

    done: list[Path] = []
    rows: list[np.ndarray] = []
    rejected: list[tuple[Path, RejectedScan]] = []
    for path in track(scans, description="embed", console=Console(stderr=True), disable=len(scans) < 2):
        try:
            rows.append(encoder.embed(path).float().cpu().numpy())
            done.append(path)
        except RejectedScan as verdict:
            rejected.append((path, verdict))
    return done, np.stack(rows) if rows else np.empty((0, 0), np.float32), rejected


def write_table(output: Path, paths: Sequence[Path], embeddings: np.ndarray) -> None:
    """Write columns path, e0, e1 … as Parquet or CSV, by the extension; whole or not at all."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    columns = {"path": pyarrow.array([str(path) for path in paths], pyarrow.string())}
    columns |= {f"e{i}": pyarrow.array(column) for i, column in enumerate(np.ascontiguousarray(embeddings.T))}
    with atomic_file(output) as file:
        if output.suffix == ".csv":
            pyarrow.csv.write_csv(pyarrow.table(columns), file)
        else:
            pyarrow.parquet.write_table(pyarrow.table(columns), file)


def parser() -> Arguments:
    """The command line."""
    made = Arguments(prog="python -m fomo_ssl.embed", description="One embedding per scan, as a table.")
    made.add_argument("scans", nargs="+", type=Path, help="NIfTI files, or folders that are searched for them")
    made.add_argument("--bundle", required=True, type=Path, help="folder of a pretrained encoder")
    made.add_argument("--output", required=True, type=Path, help="table to write: .parquet or .csv")
    made.add_argument("--device", help="torch device; default: cuda where there is one, else cpu")
    return made


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Embed and report; exit code 2 where no scan worked."""
    options = parser().parse_args(arguments)
    if options.output.suffix not in FORMATS:
        raise FomoSSLError("unknown kind of table", where=options.output, way_out=f"use {' or '.join(FORMATS)}")
    scans = find_scans(options.scans)

    from fomo_ssl.bundle import load_encoder
    from fomo_ssl.core.device import choose_device

    encoder = load_encoder(options.bundle).to(choose_device(options.device))
    done, embeddings, rejected = embed_all(encoder, scans)
    for path, verdict in rejected:
        print(f"rejected {path}: {verdict.reason.value}: {verdict.detail}", file=sys.stderr)
    if not done:
        raise FomoSSLError(f"none of {len(scans)} scans could be embedded", way_out="see the reasons above")
    write_table(options.output, done, embeddings)
    print(f"{len(done)} embedded, {len(rejected)} rejected, {embeddings.shape[1]} numbers each: {options.output}")


if __name__ == "__main__":
    main()
