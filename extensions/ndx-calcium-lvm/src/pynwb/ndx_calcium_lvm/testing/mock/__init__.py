"""Small valid objects of each type; each function takes the arguments of its class, and has a default for all."""

from ndx_calcium_lvm.testing.mock.models import (
    mock_CalciumParametersTable,
    mock_EstimatorState,
    mock_FittedModel,
    mock_LabeledArray,
    mock_ParameterColumn,
)
from ndx_calcium_lvm.testing.mock.results import mock_CalciumLVMResults, mock_TraceSource
from ndx_calcium_lvm.testing.mock.series import (
    mock_DiscreteStateIntervals,
    mock_DiscreteStateSeries,
    mock_InferredRoiSeries,
    mock_InferredSeries,
    mock_LatentSeries,
    mock_SegmentIntervals,
    mock_SpikeCountSeries,
    mock_SpikeRateSeries,
    mock_StateProbabilitySeries,
)

__all__ = [
    "mock_CalciumLVMResults",
    "mock_CalciumParametersTable",
    "mock_DiscreteStateIntervals",
    "mock_DiscreteStateSeries",
    "mock_EstimatorState",
    "mock_FittedModel",
    "mock_InferredRoiSeries",
    "mock_InferredSeries",
    "mock_LabeledArray",
    "mock_LatentSeries",
    "mock_ParameterColumn",
    "mock_SegmentIntervals",
    "mock_SpikeCountSeries",
    "mock_SpikeRateSeries",
    "mock_StateProbabilitySeries",
    "mock_TraceSource",
]
