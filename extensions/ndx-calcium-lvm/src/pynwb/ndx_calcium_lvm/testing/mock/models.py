"""Mocks of models and of their parameters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hdmf.common import DynamicTableRegion, VectorData

import ndx_calcium_lvm as ndx
from ndx_calcium_lvm.testing.mock._sizes import N_ROIS, N_STATES


def mock_LabeledArray(**arguments: Any) -> Any:
    """Transition probabilities of the states."""
    defaults = {
        "name": "transition_matrix",
        "data": np.full((N_STATES, N_STATES), 1 / N_STATES),
        "description": "Probability to go from the state (row) to each state within one frame.",
        "unit": "probability",
        "dims": ["state", "next_state"],
    }
    return ndx.LabeledArray(**defaults | arguments)


def mock_ParameterColumn(**arguments: Any) -> Any:
    """Decay time of each ROI."""
    defaults = {
        "name": "decay_time",
        "data": np.linspace(0.3, 0.6, N_ROIS),
        "description": "Decay time constant of the trace.",
        "unit": "s",
        "dims": ["roi"],
    }
    return ndx.ParameterColumn(**defaults | arguments)


def mock_CalciumParametersTable(*, table: Any = None, **arguments: Any) -> Any:
    """Parameters of each ROI; with a plane segmentation as ``table``, linked to its first rows."""
    columns: list[Any] = []
    if table is not None:
        region = DynamicTableRegion(
            name="roi", data=list(range(N_ROIS)), description="The ROI in its plane segmentation.", table=table
        )
        columns.append(region)
    names = [f"cell {i}" for i in range(N_ROIS)]
    columns += [
        VectorData(name="roi_id", description="Name of the ROI.", data=names),
        mock_ParameterColumn(),
        mock_ParameterColumn(
            name="ar_coefs",
            data=np.linspace(0.1, 0.8, 2 * N_ROIS).reshape(N_ROIS, 2),
            description="Autoregressive coefficients per frame, lag 1 first.",
            unit="1",
            dims=["roi", "lag"],
        ),
    ]
    defaults = {"name": "roi_parameters", "description": "Parameters of the model of each ROI.", "columns": columns}
    return ndx.CalciumParametersTable(**defaults | arguments)


def mock_EstimatorState(**arguments: Any) -> Any:
    """What restores an estimator."""
    defaults = {
        "name": "estimator_state",
        "format": "mock 1",
        "header_json": json.dumps({"class": "CalciumHMM", "parameters": {"n_states": N_STATES}}),
        "labeled_arrays": [
            mock_LabeledArray(),
            mock_LabeledArray(
                name="log_likelihood", data=-12.5, description="Total log-likelihood.", unit="nats", dims=[]
            ),
        ],
    }
    return ndx.EstimatorState(**defaults | arguments)


def mock_FittedModel(**arguments: Any) -> Any:
    """A hidden Markov model."""
    defaults = {
        "name": "model",
        "model_class": "CalciumHMM",
        "description": "Hidden Markov model of calcium fluorescence.",
        "software": "nwb_calcium_lvm",
        "software_version": "0.1.0",
        "random_seed": 7,
        "n_iterations": 3,
        "converged": True,
        "objective": "log posterior density (nats)",
        "log_likelihood": -12.5,
        "fit_datetime": "2026-01-02T03:04:05+00:00",
        "hyperparameters_json": json.dumps({"n_states": N_STATES, "stickiness": 0.0}),
        "details_json": json.dumps({"n_restarts": 2}),
        "objective_history": np.array([-20.0, -14.0, -12.5]),
        "labeled_arrays": [mock_LabeledArray()],
        "estimator_state": mock_EstimatorState(),
    }
    return ndx.FittedModel(**defaults | arguments)
