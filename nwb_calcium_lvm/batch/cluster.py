"""Where jobs run: in this process, on workers of this machine, or on a Dask cluster that is there already."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from nwb_calcium_lvm.batch.records import Record
from nwb_calcium_lvm.batch.work import Job, run_job
from nwb_calcium_lvm.exceptions import DataError

logger = logging.getLogger(__name__)

_SHARED_MEMORY = 0.9  # of a GPU's memory, that workers share


class Runner(Protocol):
    """Runs jobs, and yields each record (or what went wrong) as it comes."""

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Record | Exception]]:
        """Run the jobs in any order."""
        ...


def environment(n_workers: int, n_processors: int | None = None) -> dict[str, str]:
    """Return what workers of one machine need to know before JAX is imported, so that they share it.

    Parameters
    ----------
    n_workers : int
    n_processors : int, optional
        Of the machine. Default: those that this process may use.
    """
    available = n_processors or _processors()
    threads = str(max(1, available // n_workers))
    return {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "NPROC": threads,  # size of XLA's own pool of threads
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_SHARED_MEMORY / n_workers:.3f}",
    }


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def default_workers() -> int:
    """Return how many workers this machine gets: one for two processors, and one at least."""
    return max(1, _processors() // 2)


def set_environment(variables: dict[str, str]) -> bool:
    """Set variables that are not set, in a worker; return whether it is in time for JAX."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    return "jax" not in sys.modules


def in_this_process(jobs: Sequence[Job]) -> Iterator[tuple[Job, Record | Exception]]:
    """Run one job after the other here, without Dask."""
    for job in jobs:
        yield job, run_job(job)


@contextmanager
def local(n_workers: int) -> Iterator[Runner]:
    """Start workers on this machine, one job at a time on each."""
    dask, distributed = _dask()
    variables = environment(n_workers)
    settings = {
        "distributed.nanny.pre-spawn-environ": variables,
        "distributed.scheduler.allowed-failures": 1,  # a session that kills its worker twice is to blame
        "distributed.admin.tick.limit": "30s",  # compilation holds a worker's attention for long
        "distributed.worker.profile.enabled": False,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield _runner(client, distributed)


@contextmanager
def remote(address: str) -> Iterator[Runner]:
    """Use the workers of a scheduler that runs already."""
    _, distributed = _dask()
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise DataError(
            f"There is no Dask scheduler at {address} ({error}). Expected an address such as tcp://host:8786."
        ) from error
    with client:
        in_time = client.run(set_environment, environment(1))
        if not in_time:
            raise DataError(f"The scheduler at {address} has no workers. Start some, such as dask worker {address}.")
        if not all(in_time.values()):
            logger.warning(
                "Some workers at %s have imported JAX already: their threads and GPU memory are as they were started. "
                "Set XLA_PYTHON_CLIENT_PREALLOCATE and OMP_NUM_THREADS where workers are started.",
                address,
            )
        yield _runner(client, distributed)


def _runner(client: Any, distributed: Any) -> Runner:
    def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, Record | Exception]]:
        futures = {client.submit(run_job, job, pure=False, key=f"{job.name}-{job.key[:8]}"): job for job in jobs}
        for future in distributed.as_completed(futures):
            error = future.exception()
            yield futures[future], future.result() if error is None else error
            future.release()

    return run


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise DataError(
            'Batches on several processes need Dask: pip install "nwb-calcium-lvm[dask]", or pass workers=0 to run one '
            "session after the other in this process."
        ) from error
    return dask, distributed
