"""When a run has collapsed: a monitor below its threshold at several looks in a row."""

from collections.abc import Mapping
from typing import Any, Literal

from fomo_ssl.core.errors import CollapseError

AlarmAction = Literal["stop", "warn", "off"]


class CollapseAlarm:
    """Counts the looks in a row at which each monitor lay below its threshold.

    Args:
        thresholds: by monitor.
        after_samples: looks before are not counted.
        looks: so many low looks in a row ring.

    Attributes:
        low: looks in a row so far, by monitor; part of the checkpoint.
        last: value of each monitor at the last look, and the samples seen then.
    """

    def __init__(self, thresholds: Mapping[str, float], after_samples: float, looks: int) -> None:
        self.thresholds, self.after_samples, self.looks = dict(thresholds), after_samples, looks
        self.low = dict.fromkeys(self.thresholds, 0)
        self.last: dict[str, float] = {}
        self.samples = 0

    def see(self, values: Mapping[str, float], samples: int) -> None:
        """Count a look after `samples` samples; a value that is not a number counts as low."""
        self.samples = samples
        self.last = {name: values[name] for name in self.thresholds}
        if samples >= self.after_samples:
            for name in self.thresholds:
                self.low[name] = self.low[name] + 1 if self._is_low(name) else 0

    def rings(self) -> CollapseError | None:
        """The error to stop with, where a monitor has been low long enough and still is by today's threshold."""
        for name, count in self.low.items():
            if count >= self.looks and self._is_low(name):
                return CollapseError(
                    f"collapsed after {self.samples:,} samples: {name} is {self.last[name]:.2g}, "
                    f"below {self.thresholds[name]:g} at {count} looks in a row",
                    way_out="Begin another run with other settings of the objective or a lower optim.lr, or continue "
                    "this one from its last checkpoint with health.alarm=warn resume=auto",
                )
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"low": dict(self.low), "last": dict(self.last), "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the counts of an earlier process; monitors that it did not have begin at 0."""
        self.low |= {name: count for name, count in state["low"].items() if name in self.low}
        self.last = {name: state["last"].get(name, float("inf")) for name in self.thresholds} if state["last"] else {}
        self.samples = state["samples"]

    def _is_low(self, name: str) -> bool:
        return not self.last.get(name, float("inf")) >= self.thresholds[name]
