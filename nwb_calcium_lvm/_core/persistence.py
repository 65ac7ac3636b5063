"""Fitted models on disk: the constructor's arguments and the fitted attributes, as arrays and JSON."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm.exceptions import AmbiguousDataError, DataError
from nwb_calcium_lvm.result import FittedState

# Only these classes are ever built from a file, whatever the file says.
_CLASSES = {
    "CalciumGPFA": "nwb_calcium_lvm.gpfa",
    "CalciumHMM": "nwb_calcium_lvm.hmm",
    "CalciumLFADS": "nwb_calcium_lvm.lfads",
    "FilterSpikeEstimator": "nwb_calcium_lvm.spikes",
    "OASISSpikeEstimator": "nwb_calcium_lvm.spikes",
    "S2SSpikeEstimator": "nwb_calcium_lvm.spikes",
    "VAESpikeEstimator": "nwb_calcium_lvm.spikes",
}


def save_model(estimator: Any, path: str | Path) -> Path:
    """Save a fitted estimator; see :func:`load_model`."""
    from nwb_calcium_lvm.io.archive import write_archive

    check_is_fitted(estimator)
    state = state_of(estimator)
    if state is None:
        raise DataError(
            f"A {type(estimator).__name__} cannot be saved, since load_model builds only {', '.join(_CLASSES)}."
        )
    return write_archive(Path(path), state.header, state.arrays)


def load_model(path: str | Path) -> Any:
    """Load an estimator saved by ``estimator.save(path)``; nothing in the file is executed.

    Raises
    ------
    DataError
        If the file is not one of ours, or holds a class this version does not know.
    """
    from nwb_calcium_lvm.io.archive import read_archive

    return restore(FittedState(*read_archive(Path(path))), path)


def load_from_nwb(path: str | Path, name: str | None, cls: type) -> Any:
    """Return the estimator of a result in an NWB file; see ``Cls.from_nwb``."""
    from nwb_calcium_lvm.io.results_read import read_results

    found = read_results(path, lazy=True) if name is None else {name: read_results(path, name, lazy=True)}
    classes = {key: None if r.fitted is None else str(r.fitted.header.get("class")) for key, r in found.items()}
    fitting = [r.fitted for key, r in found.items() if r.fitted is not None and classes[key] == cls.__name__]
    if len(fitting) > 1:
        names = ", ".join(key for key, known in classes.items() if known == cls.__name__)
        raise AmbiguousDataError(f"{path} has several results of a {cls.__name__}: {names}. Pass name=.")
    if not fitting:
        there = ", ".join(f"{key} ({known or 'no fitted model'})" for key, known in classes.items())
        raise DataError(
            f"{path} has no {cls.__name__} to restore. It has: {there or 'no results'}. Use the class that was fitted, "
            "or write the result again with schema='extension'."
        )
    return restore(fitting[0], path)


def state_of(estimator: Any) -> FittedState | None:
    """Return what restores a fitted estimator; None for a class that could not be built from a file."""
    name = type(estimator).__name__
    if name not in _CLASSES:
        return None
    parameters, fitted = estimator._to_save()
    found = {k: v for k, v in fitted.items() if isinstance(v, np.ndarray)}
    # NumPy would pickle arrays of objects, such as names of columns or ROIs from pandas: they are lists in the header.
    objects = {k: v.tolist() for k, v in found.items() if v.dtype == object}
    arrays = {k: v for k, v in found.items() if k not in objects}
    plain = {k: v for k, v in fitted.items() if k not in found}
    return FittedState({"class": name, "parameters": parameters, "fitted": plain, "objects": objects}, arrays)


def restore(state: FittedState, path: str | Path) -> Any:
    """Return the estimator of a state that was read from ``path``.

    Raises
    ------
    DataError
        If the state is of a class this version does not know, or not one of that class.
    """
    from nwb_calcium_lvm.io.archive import FORMAT, check_version

    header = state.header
    check_version(str(header.get("format", FORMAT)), int(header.get("version", 0)), Path(path))
    name = str(header.get("class"))
    if name not in _CLASSES:
        raise DataError(f"{path} holds a model of class {name!r}; this version knows {', '.join(_CLASSES)}.")
    cls = getattr(import_module(_CLASSES[name]), name)
    try:
        objects = {k: np.array(v, dtype=object) for k, v in header["objects"].items()}
        return cls._restore(header["parameters"], {**header["fitted"], **objects, **state.arrays})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} does not hold what makes a {name} ({error!r}). Save the model again.") from error
