"""From settings to scores: a row for each metric of each method, with intervals, tests and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.bands import bands
from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER
from fomo_ssl.downstream.permutation import holm
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report.arms import Arm as Arm
from fomo_ssl.report.arms import Setting as Setting
from fomo_ssl.report.arms import settings as settings

BETTER, WORSE, UNCLEAR = "better", "worse", "no clear difference"
ALL = "all"
LEVEL = 0.05
"""Below it, p after Holm's correction says that a difference holds for the family of all comparisons."""


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`: one metric of one method, as the mean over seeds.

    Attributes:
        dataset: `all`, or one dataset of several.
        difference: to `against`, paired over subjects and on the seeds that both finished.
        band: of the target, such as `60-70`; empty for all of it.
        p, p_holm: of the paired permutation test, alone and in the family of all tested rows: those over all cases of
            the metrics by which methods are compared. None where nothing was tested.
        against: the from-scratch twin, or an in-domain control; None where there is none.
        in_domain: whether it is such a control: the row then repeats the method's score for the sake of the difference.
        members: number of seeds of which this is the ensemble, and the difference that to the ensemble of the twin's; 0
            where it is the mean over seeds.
    """

    setting: Setting
    arm: Arm
    dataset: str
    metric: str
    score: Interval
    difference: Interval | None
    band: str = ""
    p: float | None = None
    p_holm: float | None = None
    against: Arm | None = None
    in_domain: bool = False
    members: int = 0

    @property
    def overall(self) -> bool:
        """Whether the row is the mean over seeds on all cases, and not there for an in-domain control."""
        return self.dataset == ALL and not (self.band or self.in_domain or self.members)

    @property
    def holds(self) -> bool:
        """Whether the difference holds after Holm's correction."""
        return self.p_holm is not None and self.p_holm <= LEVEL

    @property
    def verdict(self) -> str:
        """What the difference says in words; empty where there is none."""
        return "" if self.difference is None else verdict(self.difference, self.metric)


def verdict(difference: Interval, metric: str) -> str:
    """`better` or `worse` where the whole interval lies on one side of zero, else `no clear difference`."""
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    least, most = sorted((sign * difference.low, sign * difference.high))
    return BETTER if least > 0 else WORSE if most < 0 else UNCLEAR


def rows(found: Sequence[Setting]) -> list[Row]:
    """Every metric of every method: over all cases, within each dataset where there are several, and by band.

    The metrics that are tested come once more beside each in-domain control, and of the ensemble of the seeds.
    """
    result = []
    for setting in found:
        for arm in setting.arms:
            twin = setting.twin(arm)
            for dataset in _datasets(arm):
                own, other = _of(arm, dataset), _of(twin, dataset) if twin is not None else {}
                both = [seed for seed in own if seed in other]
                pairs = [own[seed] for seed in both], [other[seed] for seed in both]
                tested = scores.p_values(*pairs) if both and dataset == ALL else {}
                values, apart = _scores(list(own.values()), pairs)
                result += [
                    Row(
                        *(setting, arm, dataset, name, values[name], apart.get(name)),
                        p=tested.get(name),
                        against=twin if name in apart else None,
                    )
                    for name in values
                ]
            result += _banded(setting, arm, twin)
            result += [row for control in setting.controls(arm) for row in _in_domain(setting, arm, control)]
            result += _ensembled(setting, arm, twin)
    adjusted = iter(holm([row.p for row in result if row.p is not None]))
    return [row if row.p is None else replace(row, p_holm=next(adjusted)) for row in result]


def _scores(
    own: Sequence[Predictions], pairs: tuple[Sequence[Predictions], Sequence[Predictions]]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Every metric that all tables have, and the differences of those that point somewhere."""
    shared = [name for name in own[0].metrics if all(name in table.metrics for table in (*own, *pairs[1]))]
    pointing = [name for name in shared if name in HIGHER_IS_BETTER]
    return scores.intervals(own, shared), scores.differences(*pairs, pointing) if pairs[0] else {}


def _banded(setting: Setting, arm: Arm, twin: Arm | None) -> list[Row]:
    """The error of a regression in each band of the target."""
    if setting.kind != "regression":
        return []
    result = []
    for band in bands(arm.seeds[0].columns["target"]):
        rows_of = band.rows(arm.seeds[0].columns["target"])
        own = {seed: table.take(rows_of) for seed, table in arm.tables.items()}
        other = {seed: table.take(rows_of) for seed, table in (twin.tables if twin is not None else {}).items()}
        both = [seed for seed in own if seed in other]
        apart = scores.differences([own[s] for s in both], [other[s] for s in both], ["mae"]) if both else {}
        values = scores.intervals(list(own.values()), ["mae", "bias"])
        result += [
            Row(
                *(setting, arm, ALL, name, values[name], apart.get(name), band.label),
                against=twin if name in apart else None,
            )
            for name in values
        ]
    return result


def _in_domain(setting: Setting, arm: Arm, control: Arm) -> list[Row]:
    """The difference to a model that was trained on the tested datasets themselves, by the metrics that are tested."""
    both = [seed for seed in arm.tables if seed in control.tables]
    pairs = [arm.tables[seed] for seed in both], [control.tables[seed] for seed in both]
    values, apart, tested = scores.intervals(arm.seeds), scores.differences(*pairs), scores.p_values(*pairs)
    return [
        Row(setting, arm, ALL, name, values[name], apart[name], p=tested[name], against=control, in_domain=True)
        for name in values
    ]


def _ensembled(setting: Setting, arm: Arm, twin: Arm | None) -> list[Row]:
    """The seeds as one model, and its difference to the twin's seeds as one; described, not tested."""
    own, other = arm.ensemble, None if twin is None else twin.ensemble
    if own is None:
        return []
    values, apart = scores.intervals([own.predictions]), dict[str, Interval]()
    if other is not None and list(own.seeds) == list(other.seeds):
        apart = scores.differences([own.predictions], [other.predictions])
    return [
        Row(
            *(setting, arm, ALL, name, values[name], apart.get(name)),
            against=twin if name in apart else None,
            members=len(own.seeds),
        )
        for name in values
    ]


def _datasets(arm: Arm) -> list[str]:
    names = sorted(set(arm.seeds[0].datasets))
    return [ALL, *names] if len(names) > 1 else [ALL]


def _of(arm: Arm, dataset: str) -> dict[int, Predictions]:
    if dataset == ALL:
        return dict(arm.tables)
    return {seed: scores.of_dataset(table, dataset) for seed, table in arm.tables.items()}
