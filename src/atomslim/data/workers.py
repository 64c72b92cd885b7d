"""Jobs shared among fresh processes, which end with the one that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any

import torch

from atomslim.errors import AtomslimError

stopped: Callable[[], bool] = lambda: False  # noqa: E731 -- replaced in every process of a pool
"""Whether another process of the pool has failed, so that a long job may end early; look it up at each use."""


def run_jobs(jobs: Iterable[Callable[[], Any]], processes: int, where: object) -> Iterator[Any]:
    """Run picklable jobs in several processes, or in this one if one is asked for, and give results as they come.

    Raises AtomslimError, naming ``where``, if a process was killed; what a job raises ends the others as well.
    """
    if processes == 1:
        yield from (job() for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the threads that run here
    stop = context.Event()
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(stop,)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise AtomslimError(
                f"{where}: a process was killed, perhaps for lack of memory: run it again with fewer processes"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(stop: Event) -> None:
    """Prepare a process of the pool."""
    global stopped  # noqa: PLW0603 -- an event can be handed to a process only when it starts
    stopped = stop.is_set
    torch.set_num_threads(1)
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent has been killed."""
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
