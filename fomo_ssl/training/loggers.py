"""`metrics.csv`, a plain table that survives kills, and the loggers of others."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.files import write_text
from fomo_ssl.training.reading import read_metrics
from fomo_ssl.training.record import digest

FIRST = ("samples", "loss")


class MetricsFile(Logger):
    """One row per measurement, by samples seen; every row is in the file when the call returns.

    Args:
        path: the file.
        samples_seen: where the run starts; rows after it were written by a process whose work is lost.
    """

    def __init__(self, path: Path, samples_seen: int = 0) -> None:
        super().__init__()
        self.path = path
        # A run from the beginning writes its rows at 0 samples again.
        rows = [row for row in read_metrics(path) if row["samples"] <= samples_seen] if samples_seen else []
        self._columns = list(dict.fromkeys([*FIRST, *(name for row in rows for name in row)]))
        self._write_all(rows)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `run.json` has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; a metric that was never seen adds a column, for which the file is written anew."""
        row = {"samples": float(step or 0), **metrics}
        new = [name for name in row if name not in self._columns]
        if new:
            rows = read_metrics(self.path)
            self._columns += new
            self._write_all([*rows, row])
            return
        with self.path.open("a", newline="") as file:
            file.write(self._line(row))

    def _write_all(self, rows: Sequence[Mapping[str, float]]) -> None:
        header = ",".join(self._columns) + "\n"
        write_text(self.path, header + "".join(self._line(row) for row in rows))

    def _line(self, row: Mapping[str, float]) -> str:
        text = io.StringIO()
        # Samples are counted, and by the count a resumed run knows its rows: all digits.
        written = {name: f"{value:.0f}" if name == "samples" else f"{value:.8g}" for name, value in row.items()}
        cells = [written.get(name, "") for name in self._columns]
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue()


def build_loggers(run: Path, samples_seen: int, wandb: Mapping[str, Any] | None = None) -> list[Logger]:
    """`metrics.csv` and TensorBoard always, Weights & Biases with its settings where they are given.

    Args:
        run: run directory.
        samples_seen: where the run starts.
        wandb: keyword arguments of Lightning's `WandbLogger`, such as project and offline.
    """
    # purge_step hides what a killed process wrote after its last checkpoint; of one before its first, all.
    purge = samples_seen + 1 if samples_seen else 0
    board = TensorBoardLogger(run / "tensorboard", name="", version="", purge_step=purge)
    loggers: list[Logger] = [MetricsFile(run / "metrics.csv", samples_seen), board]
    if wandb is not None:
        # A run that is continued is told by its folder, since other folders may have the same name.
        own = f"{run.name}-{digest({'run': str(run.resolve())})}"
        loggers.append(WandbLogger(**{"name": run.name, "save_dir": run, "id": own, "resume": "allow", **wandb}))
    return loggers


@contextlib.contextmanager
def wandb_run(loggers: Sequence[Logger]) -> Iterator[None]:
    """Begin the run of a `WandbLogger`, if there is one, and end it: the next of a sweep would go on in it.

    Raises:
        ConfigError: Weights & Biases does not know a setting, or nobody is logged in.
    """
    logger = next((one for one in loggers if isinstance(one, WandbLogger)), None)
    if logger is None:
        yield
        return
    import wandb

    others = wandb.run  # of who calls us: Lightning logs into it, and it is not ours to end
    try:
        _ = logger.experiment
    except (TypeError, ValueError, wandb.errors.Error) as error:
        way_out = "See conf/logger; without an account or network give logger.offline=true"
        raise ConfigError(f"Weights & Biases refuses its settings: {error}", way_out=way_out) from error
    failed = 1
    try:
        yield
        failed = 0
    finally:
        if others is None:
            wandb.finish(exit_code=failed)
