"""The classes: what they need, what they refuse, what they inherit."""

from __future__ import annotations

import ndx_calcium_lvm as ndx
import numpy as np
import pytest
from hdmf.common import DynamicTable, VectorData
from ndx_calcium_lvm.testing import mock
from ndx_files import add_results, session
from pynwb import TimeSeries
from pynwb.core import NWBData, NWBDataInterface
from pynwb.epoch import TimeIntervals
from pynwb.ophys import RoiResponseSeries

PARENTS = {
    "CalciumLVMResults": NWBDataInterface,
    "FittedModel": NWBDataInterface,
    "LabeledArray": NWBData,
    "ParameterColumn": VectorData,
    "CalciumParametersTable": DynamicTable,
    "InferredSeries": TimeSeries,
    "LatentSeries": TimeSeries,
    "StateProbabilitySeries": TimeSeries,
    "DiscreteStateSeries": TimeSeries,
    "InferredRoiSeries": RoiResponseSeries,
    "SpikeRateSeries": RoiResponseSeries,
    "SpikeCountSeries": RoiResponseSeries,
    "DiscreteStateIntervals": TimeIntervals,
    "SegmentIntervals": TimeIntervals,
}


@pytest.mark.parametrize("name", PARENTS)
def test_types_are_core_types_to_readers_that_know_no_other(name):
    assert issubclass(getattr(ndx, name), PARENTS[name])


@pytest.mark.parametrize("name", mock.__all__)
@pytest.mark.filterwarnings("ignore:The linked table")
def test_every_mock_makes_an_object_of_its_class(name):
    made = getattr(mock, name)()
    assert type(made) is getattr(ndx, name.removeprefix("mock_"))


@pytest.mark.parametrize("field", ["model_class", "description", "software", "software_version"])
def test_a_model_says_what_it_is(field):
    with pytest.raises(TypeError):
        mock.mock_FittedModel(**{field: None})


def test_results_have_a_model():
    with pytest.raises(TypeError, match="model"):
        ndx.CalciumLVMResults(name="r", description="Nothing.")


def test_a_table_of_parameters_has_the_name_that_is_its_place():
    results = mock.mock_CalciumLVMResults(name="r")
    other = mock.mock_CalciumParametersTable(name="another")
    with pytest.raises(ValueError, match="roi_parameters"):
        ndx.CalciumLVMResults(name="r", description="d", model=mock.mock_FittedModel(), roi_parameters=other)
    assert results.roi_parameters.name == "roi_parameters"


def test_columns_keep_unit_and_axes():
    table = mock.mock_CalciumParametersTable()
    assert table["ar_coefs"].dims == ["roi", "lag"]
    assert table["decay_time"].unit == "s"
    assert list(table.to_dataframe()["roi_id"]) == [f"cell {i}" for i in range(4)]


def test_a_result_is_one_object_of_its_module():
    nwbfile = session()
    before = set(nwbfile.processing["ophys"].data_interfaces)
    results = add_results(nwbfile, name="mine")
    assert set(nwbfile.processing["ophys"].data_interfaces) - before == {"mine"}
    inferred = {**results.inferred_series, **results.inferred_roi_series}
    assert all(s.parent is results for s in inferred.values())
    assert all(s.model is results.model for s in inferred.values())


def test_two_results_of_one_name_clash():
    nwbfile = session()
    add_results(nwbfile, name="mine")
    with pytest.raises(ValueError, match="mine"):
        add_results(nwbfile, name="mine")


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4, 5)])
def test_an_array_has_any_number_of_axes(shape):
    array = mock.mock_LabeledArray(data=np.zeros(shape), dims=[f"axis {i}" for i in range(len(shape))])
    assert array.data.shape == shape
