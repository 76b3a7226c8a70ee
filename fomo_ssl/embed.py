"""One embedding per scan, as a table with what is known of the scans.

    python -m fomo_ssl.embed --bundle BUNDLE /data/FOMO60K more/t1.nii.gz --output embeddings.parquet
    python -m fomo_ssl.embed --bundle BUNDLE --store STORE --output embeddings.parquet --figure map.png --label sequence

A run that was killed goes on where it broke off. Scans that cannot be used are in OUTPUT_rejected.csv with the reason.
"""

from collections.abc import Sequence
from pathlib import Path

from fomo_ssl.core.arguments import Arguments
from fomo_ssl.core.errors import ConfigError, FomoSSLError, entry


def parser() -> Arguments:
    """The command line."""
    made = Arguments(prog="python -m fomo_ssl.embed", description="One embedding per scan, as a table.")
    made.add_argument("scans", nargs="*", type=Path, help="NIfTI files, or folders in one of the known layouts")
    made.add_argument("--store", type=Path, help="folder that preprocess made, in place of scans")
    made.add_argument("--bundle", required=True, type=Path, help="folder of a pretrained encoder")
    made.add_argument("--output", required=True, type=Path, help="table to write: .parquet or .csv")
    made.add_argument("--figure", type=Path, help="picture of the embeddings: .png, .svg or .pdf")
    made.add_argument("--label", action="append", default=[], metavar="COLUMN", help="probe sequence, sex, age, …")
    made.add_argument("--labels", type=Path, metavar="TABLE", help="CSV or TSV with --label columns of your own")
    made.add_argument("--device", help="torch device; default: cuda where there is one, else cpu")
    return made


@entry
def main(arguments: Sequence[str] | None = None) -> None:
    """Embed, report, draw, probe; exit code 2 where no scan worked."""
    options = parser().parse_args(arguments)
    if bool(options.scans) == bool(options.store):
        raise ConfigError("scans or --store are needed, not both", way_out="give files or folders, or --store STORE")

    from rich.console import Console

    from fomo_ssl import __version__
    from fomo_ssl.bundle import bundle_digest, load_encoder
    from fomo_ssl.core.device import choose_device
    from fomo_ssl.core.memory import keep_freed_memory
    from fomo_ssl.corpus.description import describe_paths
    from fomo_ssl.corpus.store import Store
    from fomo_ssl.downstream import embeddings, label_probe
    from fomo_ssl.downstream.given_labels import read_given_labels

    _check_extension(options.output, embeddings.FORMATS)
    if options.figure:
        from fomo_ssl.report import embedding_figure

        _check_extension(options.figure, embedding_figure.FORMATS)
    given = read_given_labels(options.labels) if options.labels else None
    for label in options.label:
        label_probe.check_label(label, given)
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    encoder = load_encoder(options.bundle).to(device)
    facts = {
        "bundle": str(options.bundle),
        "bundle_digest": bundle_digest(options.bundle),
        "encoder": encoder.config.encoder,
        "version": __version__,
    }
    if options.store:
        store = Store.open(options.store)
        facts["store_fingerprint"] = store.fingerprint
        items = embeddings.items_of_store(store, encoder)
    else:
        items = embeddings.items_of_files(describe_paths(options.scans))
    table, rejected = embeddings.embed_items(encoder, items, options.output, facts, Console(stderr=True))
    reasons = embeddings.write_rejected(options.output, rejected)
    if not len(table):
        raise FomoSSLError(f"none of {len(items)} scans could be embedded", where=reasons, way_out="see the reasons")
    embeddings.write_table(options.output, table)
    print(f"{len(table)} embedded, {embeddings.vectors(table).shape[1]} numbers each: {options.output}")
    print(f"{len(rejected)} rejected: {reasons}")
    if options.figure:
        print(f"{embedding_figure.write_figure(table, options.figure)}: {options.figure}")
    for label in options.label:
        print(f"\n{label_probe.probe_label(table, label, given).text()}")


def _check_extension(path: Path, known: Sequence[str]) -> None:
    if path.suffix not in known:
        raise ConfigError("unknown kind of file", where=path, way_out=f"use {' or '.join(known)}")


if __name__ == "__main__":
    main()
