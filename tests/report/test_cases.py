import numpy as np
import pytest
from run_maker import RunMaker

from fomo_ssl.report import results
from fomo_ssl.report.cases import RANKS, draw_cases, pictured
from fomo_ssl.report.runs import read_run


def test_a_case_is_pictured_once_and_the_median_is_in_the_middle(make_run: RunMaker) -> None:
    run = read_run(make_run("x", "segmentation", shots=(5,), seeds=1))
    (setting,) = results.settings([run])
    chosen = pictured(setting.arms[0])
    assert [len(entries) for entries in chosen.values()] == [3, 3, 3]
    cases = [entry["case"] for entries in chosen.values() for _, entry in entries]
    assert len(set(cases)) == 9
    dice = {rank: [entry["dice"] for _, entry in entries] for rank, entries in chosen.items()}
    assert max(dice["worst"]) <= min(dice["median"])
    assert max(dice["median"]) <= min(dice["best"])
    middle = float(np.median(setting.arms[0].seeds[0].columns["dice"]))
    assert min(dice["median"]) <= middle <= max(dice["median"])


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("folds", [0, 4])
def test_cases_of_numbers_go_from_the_largest_error_to_the_least(make_run: RunMaker, kind: str, folds: int) -> None:
    (setting,) = results.settings([read_run(make_run("x", kind, shots=(4,), seeds=2, folds=folds, pictures=True))])
    drawn, lost = draw_cases(setting)
    assert (len(drawn), lost) == (9, 0)
    table, twin = setting.arms[0].tables[0], setting.arms[1].tables[0]
    given, truth = table.columns["prediction"], table.columns["target"]
    errors = np.abs(given - truth)  # of two classes too: the prediction is the probability of class 1
    shown = {rank: [table.cases.index(case.case) for case in drawn if case.rank == rank] for rank in RANKS}
    order = list(np.argsort(errors))
    assert shown["best"] == order[:3]
    assert shown["worst"] == order[::-1][:3]
    middle = {rank: errors[rows] for rank, rows in shown.items()}
    assert middle["best"].max() <= middle["median"].min() <= np.median(errors) <= middle["median"].max()
    for case in drawn:
        row = table.cases.index(case.case)
        assert case.truth == truth[row]
        values = [t.columns["prediction"][row] for t in (table, twin)]
        if kind == "classification":
            values = [value if truth[row] == 1 else 1 - value for value in values]
        assert [case.value, case.twin_value] == pytest.approx(values)
