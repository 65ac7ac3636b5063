"""Mocks of whole results."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hdmf.common import DynamicTableRegion

import ndx_calcium_lvm as ndx
from ndx_calcium_lvm.testing.mock import models, series
from ndx_calcium_lvm.testing.mock._sizes import N_FRAMES, N_ROIS, RATE


def mock_TraceSource(*, table: Any = None, **arguments: Any) -> Any:
    """The source of traces; with a plane segmentation as ``table``, linked to its first rows."""
    defaults: dict[str, Any] = {
        "name": "source",
        "kind": "nwb",
        "file": "session.nwb",
        "series_path": "processing/ophys/DfOverF/dff",
        "table_rows": np.arange(N_ROIS),
        "planes": np.zeros(N_ROIS, int),
    }
    if table is not None:
        rows = list(range(N_ROIS))
        defaults["rois"] = DynamicTableRegion(name="rois", data=rows, description="The ROIs.", table=table)
    return ndx.TraceSource(**defaults | arguments)


def mock_CalciumLVMResults(
    *, module: Any = None, table: Any = None, source_series: Any = None, trials: Any = None, **arguments: Any
) -> Any:
    """A result with something of each type.

    Parameters
    ----------
    module : ProcessingModule, optional
        Where it is put. It goes there while it is still empty: what links to tables wants to be in their file already.
    table : PlaneSegmentation, optional
        The ROIs, at least four; without it what needs them is left out.
    source_series : TimeSeries, optional
        The traces; what was inferred links to them.
    trials : TimeIntervals, optional
        A table of at least two trials.
    **arguments
        Of the class, in place of the defaults.
    """
    defaults: dict[str, Any] = {
        "name": "CalciumHMM",
        "description": "What a hidden Markov model inferred.",
        "model": models.mock_FittedModel(source_series=source_series),
        "sampling_rate": RATE,
        "is_regular": True,
        "roi_ids": [f"cell {i}" for i in range(N_ROIS)],
        "segment_bounds": np.array([[0, N_FRAMES // 2], [N_FRAMES // 2, N_FRAMES]]),
        "trial_ids": np.array([11, 12]),
        "software_versions": [["numpy", "2.0"], ["pynwb", "4.0"]],
        "metadata_json": json.dumps({"indicator": "GCaMP6f"}),
        "labeled_arrays": [
            models.mock_LabeledArray(
                name="initial_condition",
                data=np.eye(2),
                description="State of the generator at the start of each trial.",
                unit="a.u.",
                dims=["trial", "factor"],
            )
        ],
    }
    results = ndx.CalciumLVMResults(**defaults | arguments)
    if module is not None:
        module.add(results)
    _add_over_time(results, source_series)
    if table is not None:
        _add_of_rois(results, table, source_series)
    results.add_trace_sources(mock_TraceSource(table=table, series=source_series))
    results.roi_parameters = models.mock_CalciumParametersTable(table=table)
    results.segments = series.mock_SegmentIntervals()
    if trials is not None:
        results.trials = DynamicTableRegion(name="trials", data=[0, 1], description="The trials.", table=trials)
    return results


# What is referred to is added before what refers to it, or it would become its child.
def _add_over_time(results: Any, source_series: Any) -> None:
    links = {"model": results.model, "source_series": source_series}
    std = series.mock_LatentSeries(name="latents_std", data=np.full((N_FRAMES, 2), 0.1), **links)
    probabilities = series.mock_StateProbabilitySeries(**links)
    results.add_inferred_series([std, probabilities])
    states = series.mock_DiscreteStateSeries(probabilities=probabilities, **links)
    latents = series.mock_LatentSeries(posterior_std=std, **links)
    results.add_inferred_series([states, latents, series.mock_InferredSeries(**links)])
    results.add_discrete_state_intervals(series.mock_DiscreteStateIntervals(source_series=states))


def _add_of_rois(results: Any, table: Any, source_series: Any) -> None:
    links = {"table": table, "model": results.model, "source_series": source_series}
    std = series.mock_SpikeRateSeries(name="firing_rates_std", **links)
    results.add_inferred_roi_series(std)
    rates = series.mock_SpikeRateSeries(posterior_std=std, **links)
    counts, influx = series.mock_SpikeCountSeries(**links), series.mock_InferredRoiSeries(**links)
    results.add_inferred_roi_series([rates, counts, influx])
