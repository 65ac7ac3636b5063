"""Mocks of what runs over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from hdmf.common import DynamicTableRegion, VectorData
from pynwb.testing.mock.ophys import mock_PlaneSegmentation

import ndx_calcium_lvm as ndx
from ndx_calcium_lvm.testing.mock._sizes import N_FRAMES, N_LATENTS, N_ROIS, N_STATES, RATE


def _on_the_clock(defaults: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    clock = {} if "timestamps" in arguments else {"rate": RATE, "starting_time": 0.0}
    return defaults | clock | arguments


def mock_InferredSeries(**arguments: Any) -> Any:
    """Anything over time; here the inputs of a controller."""
    defaults = {
        "name": "inputs",
        "data": np.linspace(-1, 1, 2 * N_FRAMES).reshape(N_FRAMES, 2),
        "description": "Inferred inputs.",
        "unit": "a.u.",
        "dims": ["time", "input"],
    }
    return ndx.InferredSeries(**_on_the_clock(defaults, arguments))


def mock_LatentSeries(**arguments: Any) -> Any:
    """Latent variables."""
    defaults = {
        "name": "latents",
        "data": np.linspace(-2, 2, N_LATENTS * N_FRAMES).reshape(N_FRAMES, N_LATENTS),
        "description": "Posterior mean of the latents.",
        "unit": "a.u.",
        "dims": ["time", "latent"],
    }
    return ndx.LatentSeries(**_on_the_clock(defaults, arguments))


def mock_StateProbabilitySeries(**arguments: Any) -> Any:
    """Probabilities of the states."""
    defaults = {
        "name": "state_probabilities",
        "data": np.full((N_FRAMES, N_STATES), 1 / N_STATES),
        "description": "Posterior probability of each state.",
        "unit": "probability",
        "dims": ["time", "state"],
    }
    return ndx.StateProbabilitySeries(**_on_the_clock(defaults, arguments))


def mock_DiscreteStateSeries(**arguments: Any) -> Any:
    """A path of states."""
    defaults = {
        "name": "states",
        "data": np.repeat(np.arange(N_STATES), N_FRAMES)[::N_STATES].astype(np.int64),
        "description": "Most probable path of states.",
        "unit": "state",
        "dims": ["time"],
        "state_labels": [f"state {i}" for i in range(N_STATES)],
    }
    return ndx.DiscreteStateSeries(**_on_the_clock(defaults, arguments))


def _roi_series(kind: Any, defaults: dict[str, Any], table: Any, arguments: dict[str, Any]) -> Any:
    if "rois" not in arguments:
        region = DynamicTableRegion(
            name="rois",
            data=list(range(N_ROIS)),
            description="The ROIs of the columns.",
            table=mock_PlaneSegmentation(n_rois=N_ROIS) if table is None else table,
        )
        defaults = defaults | {"rois": region}
    defaults = defaults | {"data": np.linspace(0, 9, N_FRAMES * N_ROIS).reshape(N_FRAMES, N_ROIS)}
    return kind(**_on_the_clock(defaults, arguments))


def mock_InferredRoiSeries(*, table: Any = None, **arguments: Any) -> Any:
    """Anything over time and ROIs, on the first rows of the plane segmentation ``table``; here the influx."""
    defaults = {"name": "influx", "description": "dF/F that spikes bring per second.", "unit": "1/s"}
    return _roi_series(ndx.InferredRoiSeries, defaults, table, arguments)


def mock_SpikeRateSeries(*, table: Any = None, **arguments: Any) -> Any:
    """Firing rates."""
    defaults = {"name": "firing_rates", "description": "Expected firing rate.", "unit": "Hz"}
    return _roi_series(ndx.SpikeRateSeries, defaults, table, arguments)


def mock_SpikeCountSeries(*, table: Any = None, **arguments: Any) -> Any:
    """Expected numbers of spikes."""
    defaults = {"name": "expected_spikes", "description": "Expected spikes in each frame.", "unit": "spikes"}
    return _roi_series(ndx.SpikeCountSeries, defaults, table, arguments)


def mock_DiscreteStateIntervals(**arguments: Any) -> Any:
    """Visits to states."""
    columns = [
        VectorData(name="start_time", description="Start of the visit, in s.", data=[0.0, 0.5, 0.8]),
        VectorData(name="stop_time", description="End of the visit, in s.", data=[0.5, 0.8, 1.3]),
        VectorData(name="state", description="The state.", data=np.array([0, 1, 2])),
        VectorData(name="mean_probability", description="Mean probability.", data=np.array([0.9, 0.8, 0.7])),
    ]
    defaults = {"name": "state_bouts", "description": "Visits to states.", "columns": columns}
    return ndx.DiscreteStateIntervals(**defaults | arguments)


def mock_SegmentIntervals(**arguments: Any) -> Any:
    """Windows of trials."""
    columns = [
        VectorData(name="start_time", description="Start of the window, in s.", data=[0.0, 0.7]),
        VectorData(name="stop_time", description="End of the window, in s.", data=[0.6, 1.3]),
        VectorData(name="trial", description="The trial.", data=[11, 12]),
    ]
    defaults = {"name": "segments", "description": "Windows the model was applied to.", "columns": columns}
    return ndx.SegmentIntervals(**defaults | arguments)
