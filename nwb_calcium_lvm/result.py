"""What an estimator inferred from one recording: arrays with axis names and units, on the recording's own clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.provenance import Segments, Source

_VERSIONED = ("nwb-calcium-lvm", "jax", "flax", "optax", "numpy", "scikit-learn", "pynwb", "hdmf")


class NamedArray(NamedTuple):
    """Values with the names of their axes, their unit, and a sentence that says what they are.

    The values may be a NumPy array or anything that slices to one, such as an HDF5 dataset.
    """

    values: Any
    dims: tuple[str, ...]
    unit: str
    description: str


class SpikeTimes(NamedTuple):
    """Single spikes of each ROI: their times in s, increasing, and how sure each is (a probability)."""

    times: list[NDArray[np.floating]]
    confidence: list[NDArray[np.floating]]


class FittedState(NamedTuple):
    """What restores the estimator that inferred a result: plain values and arrays.

    The header holds what :func:`nwb_calcium_lvm.load_model` needs to know; nothing in it is executed.
    """

    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class InferenceResult:
    """States, rates and parameters inferred from one recording.

    Parameters
    ----------
    arrays : dict of str to NamedArray
        What runs over time: ``states`` (time,), ``state_probabilities`` (time, state), ``firing_rates`` (time, roi)
        in Hz, ``expected_spikes`` (time, roi), ...
    parameters : dict of str to NamedArray
        What does not: per ROI (first axis ``"roi"``), per state, or of the model as a whole.
    time : ndarray of float, shape (time,)
        Time of each frame on the recording's clock, in ``time_unit``.
    time_unit : {"s", "frames"}
        ``"frames"`` where the recording has no clock.
    sampling_rate : float or None
        Frames per second.
    roi_ids : ndarray, shape (roi,)
        Names of the ROIs.
    segments : Segments
        Runs of frames without a gap; trials are segments.
    model : dict
        ``name``, ``description``, ``hyperparameters``, ``random_state``, ``n_iter``, ``objective`` and
        ``objective_history``: enough to say how the result came about.
    converged : bool
        Whether the fit met its tolerance.
    source : Source
        Where the recording came from.
    metadata, roi_metadata : dict
        As in the recording.
    is_regular : bool
        Whether frames are evenly spaced.
    versions : dict of str to str
        Versions of the software.
    fitted : FittedState, optional
        The fitted estimator, so that a file that holds the result can give it back.
    spikes : SpikeTimes, optional
        Single spikes, where they were asked for.
    """

    arrays: dict[str, NamedArray]
    parameters: dict[str, NamedArray]
    time: NDArray[np.floating]
    roi_ids: NDArray[Any]
    segments: Segments
    model: dict[str, Any]
    converged: bool
    time_unit: str = "s"
    sampling_rate: float | None = None
    source: Source = field(default_factory=Source)
    metadata: dict[str, Any] = field(default_factory=dict)
    roi_metadata: dict[str, NDArray[Any]] = field(default_factory=dict)
    is_regular: bool = True
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    fitted: FittedState | None = None
    spikes: SpikeTimes | None = None

    def __getitem__(self, name: str) -> Any:
        for store in (self.arrays, self.parameters):
            if name in store:
                return store[name].values
        known = ", ".join([*self.arrays, *self.parameters])
        raise KeyError(f"{name!r} is not in this result. It has: {known}.")

    @property
    def trial_id(self) -> NDArray[Any] | None:
        """Trial of each frame, shape (time,), where the segments are trials."""
        ids = self.segments.trial_ids
        return None if ids is None else np.repeat(ids, self.segments.lengths)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k} {tuple(np.shape(a.values))}" for k, a in self.arrays.items())
        status = "converged" if self.converged else "not converged"
        return f"InferenceResult({self.model.get('name', 'model')}, {status}: {shapes})"

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row per frame; columns of 2-D arrays carry the state, latent or ROI."""
        import pandas as pd

        columns: dict[str, Any] = {}
        if self.trial_id is not None:
            columns["trial_id"] = self.trial_id
        for name, array in self.arrays.items():
            values = np.asarray(array.values)
            if values.ndim == 1:
                columns[name] = values
            else:
                labels = self.roi_ids if array.dims[1] == "roi" else range(values.shape[1])
                columns |= {f"{name}_{label}": values[:, i] for i, label in enumerate(labels)}
        return pd.DataFrame(columns, index=pd.Index(self.time, name=f"time_{self.time_unit}"))

    def to_xarray(self) -> Any:
        """Return an xarray ``Dataset`` of arrays and parameters, with units as attributes."""
        import xarray as xr

        stores: dict[str, NamedArray] = {**self.arrays, **self.parameters}
        variables = {
            name: (a.dims, np.asarray(a.values), {"units": a.unit, "description": a.description})
            for name, a in stores.items()
        }
        coords: dict[str, Any] = {"time": self.time, "roi": self.roi_ids}
        if self.trial_id is not None:
            coords["trial_id"] = ("time", self.trial_id)
        return xr.Dataset(variables, coords=coords, attrs={"model": str(self.model.get("name", ""))})


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages a result rests on."""
    found: dict[str, str] = {}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # running from a source tree that is not installed
            continue
    return found
