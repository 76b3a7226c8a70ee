"""The units of a run one after another or side by side, with a bar of their steps, until they end or a signal comes.

So are the ensembles of its seeds tested, once their units are finished: their steps are test cases.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fomo_ssl.core.device import uses_gpu
from fomo_ssl.core.errors import FomoSSLError, RunError
from fomo_ssl.core.memory import keep_freed_memory
from fomo_ssl.core.processes import end_with_parent
from fomo_ssl.downstream.cases import Example
from fomo_ssl.downstream.ensembles import Ensemble, run_ensemble
from fomo_ssl.downstream.unit import Plan, Unit, run_unit

Result = Mapping[str, Any]
Job = Unit | Ensemble
_LOOK = 0.5  # seconds between looks at the steps that worker processes have taken


def run_units(
    plan: Plan, units: Sequence[Job], done: int, parallel: int | None, threads: int, describe: Callable[[Result], str]
) -> None:
    """Run units, or test ensembles, and print a line for each that ends.

    Ctrl-C and SIGTERM end all processes at once: finished units stay, the others are begun again by the next run.

    Args:
        plan, units: what is to be done.
        done: units that were finished before.
        parallel: processes; None takes one a core on a CPU and one on a GPU.
        threads: CPU threads of a unit.
        describe: the line.

    Raises:
        RunError: a process died, or a unit's own error.
        KeyboardInterrupt, SystemExit: after SIGINT, and with 143 after SIGTERM.
    """
    processes = _processes(parallel, len(units))
    together = _one_by_one if processes == 1 else _side_by_side
    first = units[0]
    steps = plan.recipe.steps if isinstance(first, Unit) else len(first.cases)
    what, of = ("units", "steps") if isinstance(first, Unit) else ("ensembles", "cases")
    bar = _StepBar(done, len(units), steps, what, of)
    try:
        # Closed at once where a signal comes while a line is printed: the processes would be waited for at the end.
        with (
            _terminable(),
            bar.progress,
            contextlib.closing(together(plan, units, processes, threads, bar.show)) as ended,
        ):
            for result in ended:
                bar.progress.console.print(describe(result), highlight=False)
                bar.finish_unit()
    except (KeyboardInterrupt, SystemExit):
        where = f"{bar.finished} of {done + len(units)} {what}"
        print(f"stopped after {where}; continue with resume=auto", file=sys.stderr)
        raise


def _run(plan: Plan, job: Job, cache: dict[str, Example], on_step: Callable[[int], None]) -> Result:
    return run_unit(plan, job, cache, on_step) if isinstance(job, Unit) else run_ensemble(plan, job, cache, on_step)


def _processes(parallel: int | None, units: int) -> int:
    if parallel is None:
        parallel = 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    return max(1, min(parallel, units))


def _one_by_one(
    plan: Plan, units: Sequence[Job], _: int, threads: int, show: Callable[[int], None]
) -> Generator[Result, None, None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cache: dict[str, Example] = {}
        for unit in units:
            yield _run(plan, unit, cache, show)
    finally:
        torch.set_num_threads(before)


def _side_by_side(
    plan: Plan, units: Sequence[Job], processes: int, threads: int, show: Callable[[int], None]
) -> Generator[Result, None, None]:
    context, others = get_context("spawn"), active_children()
    steps = context.Value("q", 0)  # of all units so far
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(threads, steps))
    try:
        waiting = {pool.submit(_run_in_worker, plan, unit) for unit in units}
        of_finished = 0
        while waiting:
            ended, waiting = wait(waiting, _LOOK, FIRST_COMPLETED)
            for future in ended:
                result = future.result()
                of_finished += result["steps_taken"]
                yield result
            show(steps.value - of_finished)
        pool.shutdown()
    except BrokenProcessPool as error:
        way_out = "Use a lower parallel, and continue with resume=auto"
        raise RunError("the process of a unit died; often memory ran out", where=plan.run, way_out=way_out) from error
    finally:
        # Nothing to wait for but what should not end: a worker begins the next unit before it hears of anything.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in active_children():
            if worker not in others:  # such as those of a notebook
                worker.kill()


_WORKER_CACHE: dict[str, Example] = {}
"""Cases that this worker process has read: its units share most of them."""

_WORKER_STEPS: Any = None
"""The counter that all workers add their steps to."""


def _start_worker(threads: int, steps: Any) -> None:
    global _WORKER_STEPS
    _WORKER_STEPS = steps
    end_with_parent()
    # Signals to the whole group are the parent's business.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    torch.set_num_threads(threads)
    if not uses_gpu():
        keep_freed_memory()


def _count(_: int) -> None:
    with _WORKER_STEPS.get_lock():
        _WORKER_STEPS.value += 1


def _run_in_worker(plan: Plan, unit: Job) -> Result:
    try:
        return _run(plan, unit, _WORKER_CACHE, _count)
    except FomoSSLError as error:
        # Errors with several arguments do not survive the way between processes; one with a message does.
        raise RunError(str(error), where=unit.name) from None
    except SystemExit:  # Lightning's answer to a SIGTERM
        raise RunError("its process was told to end", where=unit.name) from None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as an exception, so that what it holds is put in order."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _StepBar:
    """A bar over the steps of all units: a single unit may take an hour.

    Attributes:
        finished: units, those of before included.
    """

    def __init__(self, done: int, units: int, steps: int, what: str, of: str) -> None:
        self.finished, self._done, self._steps = done, done, steps
        self.progress = Progress(
            TextColumn(f"{{task.fields[finished]}}/{{task.fields[units]}} {what}"),
            BarColumn(),
            TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {of}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            speed_estimate_period=3600,
        )
        self._bar = self.progress.add_task("", total=units * steps, finished=done, units=done + units)

    def show(self, under_way: int) -> None:
        """Steps of the units that are not finished."""
        steps = (self.finished - self._done) * self._steps + under_way
        self.progress.update(self._bar, completed=steps, finished=self.finished)

    def finish_unit(self) -> None:
        """One more is finished."""
        self.finished += 1
        self.show(0)
