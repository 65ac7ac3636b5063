"""Writing results into NWB: a copy of the source, the source itself, or a new file; whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nwb_calcium_lvm.io._atomic import write_safely
from nwb_calcium_lvm.io._build import Tick
from nwb_calcium_lvm.io._plan import Plan, make_plan
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """What :func:`write_nwb` would do.

    Parameters
    ----------
    path : Path
        The file.
    base : Path or None
        The file it would be a copy of; the same as ``path`` where that would be added to; None: made from nothing.
    format : {"hdf5", "zarr"}
        How it is stored.
    replaced : list of str
        What would be replaced.
    objects : list of str
        What would be written, an object a line.
    needed_bytes, free_bytes : int
        Room it takes at most while writing, and room there is.
    """

    path: Path
    base: Path | None
    format: str
    replaced: list[str]
    objects: list[str]
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        how = "create" if self.base is None else f"create as a copy of {self.base}"
        if self.base == self.path:
            how = "add to"
        size = f"needs up to {self.needed_bytes / 2**20:,.1f} MB of {self.free_bytes / 2**20:,.0f} MB free"
        gone = [f"replaces {name}" for name in self.replaced]
        return "\n".join([f"{self.path} ({how}; {self.format}; {size})", *gone, *self.objects])


def write_nwb(
    result: InferenceResult,
    path: str | Path | None = None,
    *,
    source: str | Path | Recording | None = None,
    name: str | None = None,
    module: str = "ophys",
    schema: str = "extension",
    overwrite: bool = False,
    backend: str = "auto",
    verbose: int = 0,
) -> Path:
    """Write a result into an NWB file, with the extension ndx-calcium-lvm or with core types only.

    The file is made as a temporary copy, checked, and put in place in one step: whatever happens, a file is either
    as it was or complete.

    Parameters
    ----------
    result : InferenceResult
        What an estimator inferred. Arrays may be lazy, such as HDF5 datasets: they are written slice by slice.
    path : path, optional
        Where to. The source itself: the result is added to it. Default: a copy of the source with the result,
        ``<source>_calcium_lvm.nwb`` beside it; of a Suite2p folder, a new file of that name.
    source : path or Recording, optional
        The file the traces came from, if it was moved since; or the Recording, whose dF/F then goes into a new file
        made for a Suite2p folder or arrays.
    name : str, optional
        Of the result in the file. Default: the model's, such as ``"CalciumHMM"``.
    module : str
        Processing module; made if it is not there.
    schema : {"extension", "core"}
        ``"extension"``: one object of the type CalciumLVMResults, which :func:`read_results` and
        ``Cls.from_nwb`` give back in full, and whose series, intervals and tables every NWB reader sees. ``"core"``:
        core types only, for files that must not carry an extension.
    overwrite : bool
        Replace a result of this name; nothing else is ever replaced. An existing ``path`` is added to.
    backend : {"auto", "hdf5", "zarr"}
        How the file is stored. ``"auto"``: as the source is, or by the ending ``.zarr`` of ``path``. Zarr needs the
        extra ``zarr``.
    verbose : int
        1 shows a progress bar.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    NameClashError
        If there is a result of this name, or a file at ``path``, and ``overwrite`` is False.
    WriteError
        If it cannot be written: read-only, disk full, open elsewhere. Nothing has changed then.
    DataError
        If the result cannot be stored: arrays that contradict its time or its ROIs; with ``schema="core"`` also
        without a clock in s, or with overlapping trials.

    Notes
    -----
    With ``schema="core"``, in the module, for a result called NAME: NAME_<array> for each array over time (a
    RoiResponseSeries on the source's plane segmentation where it has ROIs), NAME_bouts and NAME_trials
    (TimeIntervals), NAME_roi_parameters, NAME_state_parameters and so on for parameters by their first axis,
    NAME_objective_history, NAME_provenance.

    A copy of a session gets an identifier of its own, the session's with an ending.
    """
    plan = make_plan(result, path, source, name, module, schema, overwrite, backend)
    with _progress(plan, verbose) as tick:
        done = write_safely(
            plan.target,
            base=plan.base,
            edit=lambda temporary: plan.edit(temporary, tick),
            check=plan.check,
            extra_bytes=plan.extra_bytes,
            copy_base=plan.appends,
        )
    for note in plan.layout.notes:
        logger.warning("%s", note)
    logger.info("Wrote %s into %s", plan.layout.name, done)
    return done


def plan_write(
    result: InferenceResult,
    path: str | Path | None = None,
    *,
    source: str | Path | Recording | None = None,
    name: str | None = None,
    module: str = "ophys",
    schema: str = "extension",
    overwrite: bool = False,
    backend: str = "auto",
) -> Preview:
    """Say what :func:`write_nwb` would write, and raise what it would raise before writing; nothing is written."""
    plan = make_plan(result, path, source, name, module, schema, overwrite, backend)
    room = f"processing/{module}"
    return Preview(
        path=plan.target,
        base=plan.base,
        format=plan.to,
        replaced=[f"{room}/{name}" for name in plan.replaced],
        objects=plan.layout.lines(room),
        needed_bytes=plan.needed_bytes,
        free_bytes=plan.free_bytes,
    )


@contextmanager
def _progress(plan: Plan, verbose: int) -> Iterator[Tick]:
    if not verbose:
        yield lambda n_bytes: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=plan.layout.n_bytes, desc=f"Writing {plan.target.name}", unit="B", unit_scale=True, delay=1) as bar:
        yield bar.update
        bar.update(bar.total - bar.n)  # what is too small to be told of
