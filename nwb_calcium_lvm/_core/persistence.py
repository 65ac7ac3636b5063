"""Fitted models on disk: the constructor's arguments and the fitted attributes, as arrays and JSON."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm.exceptions import DataError

# Only these classes are ever built from a file, whatever the file says.
_CLASSES = {
    "CalciumHMM": "nwb_calcium_lvm.hmm",
    "OASISSpikeEstimator": "nwb_calcium_lvm.spikes",
    "S2SSpikeEstimator": "nwb_calcium_lvm.spikes",
}


def save_model(estimator: Any, path: str | Path) -> Path:
    """Save a fitted estimator; see :func:`load_model`."""
    from nwb_calcium_lvm.io.archive import write_archive

    check_is_fitted(estimator)
    name = type(estimator).__name__
    if name not in _CLASSES:
        raise DataError(f"A {name} cannot be saved, since load_model builds only {', '.join(_CLASSES)}.")
    parameters, fitted = estimator._to_save()
    found = {k: v for k, v in fitted.items() if isinstance(v, np.ndarray)}
    # NumPy would pickle arrays of objects, such as names of columns or ROIs from pandas: they are lists in the header.
    objects = {k: v.tolist() for k, v in found.items() if v.dtype == object}
    arrays = {k: v for k, v in found.items() if k not in objects}
    plain = {k: v for k, v in fitted.items() if k not in found}
    header = {"class": name, "parameters": parameters, "fitted": plain, "objects": objects}
    return write_archive(Path(path), header, arrays)


def load_model(path: str | Path) -> Any:
    """Load an estimator saved by ``estimator.save(path)``; nothing in the file is executed.

    Raises
    ------
    DataError
        If the file is not one of ours, or holds a class this version does not know.
    """
    from nwb_calcium_lvm.io.archive import read_archive

    header, arrays = read_archive(Path(path))
    name = str(header.get("class"))
    if name not in _CLASSES:
        raise DataError(f"{path} holds a model of class {name!r}; this version knows {', '.join(_CLASSES)}.")
    cls = getattr(import_module(_CLASSES[name]), name)
    try:
        objects = {k: np.array(v, dtype=object) for k, v in header["objects"].items()}
        return cls._restore(header["parameters"], {**header["fitted"], **objects, **arrays})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} does not hold what makes a {name} ({error!r}). Save the model again.") from error
