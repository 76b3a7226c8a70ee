from pathlib import Path

import numpy as np
from run_maker import RunMaker

from fomo_ssl.report import results
from fomo_ssl.report.runs import read_run
from fomo_ssl.report.sections import _curve


def ramp(folder: Path, steps: int, every: int) -> None:
    """A learning curve whose loss is its step, looked at now and then."""
    rows = [f"{step},{step},1e-3,{step if step % every == 0 else ''}" for step in range(1, steps + 1)]
    (folder / "curve.csv").write_text("\n".join(["step,loss,lr,validation", *rows]))


def test_seeds_that_stopped_at_different_steps_are_averaged_step_by_step(make_run: RunMaker) -> None:
    path = make_run("age", "regression", shots=(5,), seeds=2)
    for seed, steps in enumerate((400, 130)):
        ramp(path / "units" / f"shots5_seed{seed}_pretrained", steps, every=20)
    (setting,) = results.settings([read_run(path)])
    for column, last in (("loss", 130), ("validation", 120)):
        curve = _curve(setting.arms[0], column, "red")
        assert curve is not None
        assert last - 2 <= curve.steps[-1] <= last
        assert len(curve.steps) <= 60
        for values in (curve.values, curve.low, curve.high):
            np.testing.assert_allclose(values, curve.steps)
