"""Whether the encoder learns anything: probes, spread and pictures of its embeddings of fixed scans while it trains."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fomo_ssl.core.errors import CollapseError, StoreError
from fomo_ssl.core.types import CropBatch
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.loader import UnreadableScan
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.objectives.losses import embedding_std, participation_ratio, rankme
from fomo_ssl.training.callbacks.alarm import AlarmAction, CollapseAlarm
from fomo_ssl.training.callbacks.features import draw_features, map_to_show
from fomo_ssl.training.callbacks.probes import MIN_SUBJECTS, Probes
from fomo_ssl.training.looking import looking
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.source import CropSource

MONITORS = {"embedding_std": embedding_std, "rankme": rankme, "participation_ratio": participation_ratio}


@dataclass(frozen=True)
class HealthConfig:
    """How often and how closely a run is looked at; nothing here changes its result.

    Attributes:
        enabled: whether at all.
        every: samples between looks; there is one before the first step and one at the end too.
        crops: scans embedded at each look, of training subjects and again of held-out ones.
        pictures: of these, how many are drawn with their features.
        alarm: what happens at a collapse: `stop` the run, `warn` on standard error, or nothing (`off`).
        warmup: share of the budget before which no look is counted.
        looks: low looks in a row that make a collapse.
        min_spread: smallest spread of the unit-length embeddings as a share of that at the first look: random weights
            of a transformer begin near 0.8, those of a convolutional network near 0.05.
        min_rankme: smallest RankMe; 1, below which it cannot fall, leaves it out of the alarm, because wide crops of
            healthy convolutional networks come near it (1.27 with random weights of `unet_t`).
    """

    enabled: bool = True
    every: int = 10_000
    crops: int = 128
    pictures: int = 4
    alarm: AlarmAction = "stop"
    warmup: float = 0.1
    looks: int = 3
    min_spread: float = 0.1
    min_rankme: float = 1.0


class Health(L.Callback):
    """Looks before the first step, every `every` samples and at the end.

    Sends `probe/...` and, under `health/`, `embedding_std`, `relative_std` (to the first look), `rankme` and
    `participation_ratio` to the loggers, draws `features_<n>.png`, and lets the alarm hear. Draws no random number and
    leaves no trace in the model.

    Args:
        source: the run's data.
        config: how often and how closely.
        samples: the budget.
        batch_size: crops embedded at once.
        folder: of the pictures.
        on_unreadable: hears of scans that cannot be read, which are left out.

    Attributes:
        collapsed: the error to raise once the run has stopped.
        headline: one number for the progress bar.
        seconds: spent looking.
    """

    def __init__(
        self,
        source: CropSource,
        config: HealthConfig,
        *,
        samples: int,
        batch_size: int,
        folder: Path,
        on_unreadable: Callable[[UnreadableScan], None],
    ) -> None:
        self.source, self.config, self.batch_size, self.folder = source, config, batch_size, folder
        self.on_unreadable = on_unreadable
        drawn = source.looked_at(config.crops)
        # Held-out scans first: they are the ones to draw.
        self.rows = np.concatenate([drawn.held_out, drawn.train])
        is_held_out = np.arange(len(self.rows)) < len(drawn.held_out)
        self.probes = Probes.of(source.store, self.rows, source.index.subject[self.rows], is_held_out)
        thresholds = {"relative_std": config.min_spread, "rankme": config.min_rankme}
        self.alarm = CollapseAlarm(thresholds, config.warmup * samples, config.looks)
        self.collapsed: CollapseError | None = None
        self.headline, self.seconds = "", 0.0
        self._plain = Augmenter("none")
        self._first_std: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        lacking = self.probes.lacking()
        if lacking:
            what = f"no probe of {', '.join(lacking)}: fewer than {MIN_SUBJECTS} training or held-out subjects have it"
            print(f"{what} (data.held_out, health.crops)", file=sys.stderr)
        if len(self.rows) < 2:
            print("no spread of embeddings and no alarm: there is one scan to look at (health.crops)", file=sys.stderr)
        error = self.alarm.rings()
        if error is not None and self.config.alarm == "stop":
            # The run that is continued here had collapsed.
            raise error
        if pl_module.samples_seen == 0:
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        if pl_module.passed(self.config.every):
            self._look(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"alarm": self.alarm.state_dict(), "first_std": self._first_std}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.alarm.load_state_dict(state_dict["alarm"])
        self._first_std = state_dict["first_std"]

    def _look(self, trainer: L.Trainer, module: PretrainModule) -> None:
        began, seen = time.perf_counter(), module.samples_seen
        with looking(trainer, module) as objective:
            embeddings, places = self._embed(module, objective.encoder)
            is_finite = bool(embeddings.isfinite().all())
            if self.config.pictures and is_finite:
                self._draw(module, objective.encoder)
        found = self._spread(embeddings, is_finite) if len(embeddings) > 1 else {}
        scores = self.probes.scores(embeddings.numpy(), places) if is_finite else {}
        for logger in trainer.loggers:
            logger.log_metrics({**scores, **{f"health/{name}": value for name, value in found.items()}}, step=seen)
        self.headline = _headline(scores, found)
        if found:
            self.alarm.see(found, seen)
        error = self.alarm.rings()
        if error is not None and self.config.alarm == "warn":
            print(f"warning: {error}", file=sys.stderr)
        if error is not None and self.config.alarm == "stop":
            # Not raised here: the checkpoint of this step is still to be written.
            self.collapsed, trainer.should_stop = error, True
        self.seconds += time.perf_counter() - began

    def _spread(self, embeddings: Float[Tensor, "k e"], is_finite: bool) -> dict[str, float]:
        """Values of the monitors over two embeddings or more."""
        # Half precision may overflow on a scan that training did not meet: the alarm takes that for a collapse.
        found = {name: float(monitor(embeddings)) if is_finite else math.nan for name, monitor in MONITORS.items()}
        if self._first_std is None and is_finite:
            self._first_std = found["embedding_std"]
        found["relative_std"] = found["embedding_std"] / max(self._first_std or 0.0, 1e-12)
        return found

    def _embed(self, module: PretrainModule, encoder: Encoder) -> tuple[Float[Tensor, "k e"], Int64[np.ndarray, "k"]]:
        """Embeddings on the CPU in float32, and which of the rows could be read; `StoreError` where none could."""
        found, places = [], []
        for start in range(0, len(self.rows), self.batch_size):
            images, read = self._images(module, np.arange(start, min(start + self.batch_size, len(self.rows))))
            if len(read):
                found.append(encoder(images).float().cpu())
                places.append(read)
        if not found:
            raise StoreError("none of the scans to look at can be read", where=self.source.store.path)
        return torch.cat(found), np.concatenate(places)

    def _images(
        self, module: PretrainModule, places: Int64[np.ndarray, "_"]
    ) -> tuple[Float[Tensor, "b c x y z"], Int64[np.ndarray, "b"]]:
        """Normalised centre crops of the readable scans among some, on the device."""
        try:
            batch = self.source.centre_crops(self.rows[places])
        except StoreError as error:
            if len(places) > 1:
                parts = [self._images(module, places[i : i + 1]) for i in range(len(places))]
                return torch.cat([images for images, _ in parts]), np.concatenate([read for _, read in parts])
            self.on_unreadable(UnreadableScan(module.samples_seen, error))
            nothing = torch.empty((0, 1, *self.source.sampler.crop), device=module.device)
            return nothing, places[:0]
        return self._plain(batch.to(module.device)).images[0], places

    def _draw(self, module: PretrainModule, encoder: Encoder) -> None:
        images, read = self._images(module, np.arange(min(self.config.pictures, len(self.rows))))
        if len(read):
            features = map_to_show(encoder.forward_features(images))
            draw_features(images, features, self.folder / f"features_{module.samples_seen:09d}.png")


def _headline(scores: dict[str, float], spread: dict[str, float]) -> str:
    for label, unit in (("sequence", ""), ("sex", ""), ("age", " years")):
        if f"probe/{label}_linear" in scores:
            chance = scores[f"probe/{label}_baseline"]
            return f"{label} {scores[f'probe/{label}_linear']:.2f}{unit} (chance {chance:.2f})"
    return f"rankme {spread['rankme']:.1f}" if spread else ""
