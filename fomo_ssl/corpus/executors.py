"""Where jobs run: worker processes on this machine, one thread each."""

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.processes import end_with_parent

J = TypeVar("J")
R = TypeVar("R")

# Jobs handed out per worker: enough that none waits, few enough that 300,000 jobs need no memory.
_AHEAD = 4
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")


def run_local(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Generator[R, None, None]:
    """Results as they come, in no order. Close the iterator to stop; jobs not begun are then dropped.

    One thread per worker also makes sums, and so the store's bytes, independent of the number of workers.

    Raises:
        FomoSSLError: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        queue = iter(jobs)
        waiting: set[Future[R]] = set()
        try:
            while True:
                room = workers * _AHEAD - len(waiting)
                waiting |= {pool.submit(function, job) for job in itertools.islice(queue, room)}
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            way_out = "It may have needed more memory than there is: run again with fewer workers, it resumes"
            raise FomoSSLError("a worker process was killed", way_out=way_out) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Numerical libraries read these when a worker imports them, so they must be set before it starts."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _follow_parent() -> None:
    """End with the parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
