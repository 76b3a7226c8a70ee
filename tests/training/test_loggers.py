from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from fomo_ssl.training.loggers import MetricsFile, build_loggers
from fomo_ssl.training.reading import read_metrics


def test_rows_are_there_at_once(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 1.5, "lr": 1e-3}, step=4)
    assert (tmp_path / "metrics.csv").read_text() == "samples,loss,lr\n4,1.5,0.001\n"
    log.log_metrics({"loss": 1.25}, step=8)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"samples": 4.0, "loss": 1.5, "lr": 1e-3},
        {"samples": 8.0, "loss": 1.25},
    ]


def test_a_new_metric_adds_a_column(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 2.0}, step=1)
    log.log_metrics({"held_out/loss": 3.0}, step=1)
    log.log_metrics({"loss": 1.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text() == "samples,loss,held_out/loss\n1,2,\n1,,3\n2,1,\n"


def test_resuming_drops_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsFile(path)
    for step in (2, 4, 6):
        log.log_metrics({"loss": float(step), "lr": 0.1}, step=step)
    whole = path.read_text()
    path.write_text(whole + "8,8.0")  # cut short by a kill
    again = MetricsFile(path, samples_seen=4)
    again.log_metrics({"loss": 6.0, "lr": 0.1}, step=6)
    assert path.read_text() == whole


def test_infinite_values_are_kept(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "m.csv").log_metrics({"loss": float("inf")}, step=1)
    assert read_metrics(tmp_path / "m.csv") == [{"samples": 1.0, "loss": float("inf")}]


def test_large_counts_of_samples_keep_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    MetricsFile(path).log_metrics({"loss": 1.5}, step=123_456_736)
    MetricsFile(path, samples_seen=123_456_736)
    assert path.read_text() == "samples,loss\n123456736,1.5\n"


@pytest.mark.parametrize(("begins_at", "kept"), [(0, []), (4, [4.0])])
def test_tensorboard_hides_what_was_lost(tmp_path: Path, begins_at: int, kept: list[float]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (4, 8)), (begins_at, (12,))):
        board = build_loggers(tmp_path, start)[1]
        assert isinstance(board, TensorBoardLogger)
        for step in steps:
            board.log_metrics({"loss": float(step)}, step=step)
        board.experiment.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.value for event in shown] == [*kept, 12.0]
