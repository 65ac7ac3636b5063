"""The classes of pynwb and hdmf, for use without types.

They are made at run time from the schema, so what a type checker believes of their attributes is wrong. ``NwbObject``
annotates instances; the names below are for making and recognising them.
"""

from importlib import import_module
from typing import Any, TypeAlias

NwbObject: TypeAlias = Any

_pynwb: Any = import_module("pynwb")
_ophys: Any = import_module("pynwb.ophys")
_epoch: Any = import_module("pynwb.epoch")
_hdmf: Any = import_module("hdmf.common")
_utils: Any = import_module("hdmf.data_utils")
_h5tools: Any = import_module("hdmf.backends.hdf5")

NWBFile = _pynwb.NWBFile
NWBHDF5IO = _pynwb.NWBHDF5IO
ProcessingModule = _pynwb.ProcessingModule
TimeSeries = _pynwb.TimeSeries
TimeSeriesReferenceVectorData = import_module("pynwb.base").TimeSeriesReferenceVectorData
TimeIntervals = _epoch.TimeIntervals
Units = import_module("pynwb.misc").Units

ImageSegmentation = _ophys.ImageSegmentation
OpticalChannel = _ophys.OpticalChannel
PlaneSegmentation = _ophys.PlaneSegmentation
RoiResponseSeries = _ophys.RoiResponseSeries

DynamicTable = _hdmf.DynamicTable
DynamicTableRegion = _hdmf.DynamicTableRegion
VectorData = _hdmf.VectorData
VectorIndex = _hdmf.VectorIndex

GenericDataChunkIterator = _utils.GenericDataChunkIterator
H5DataIO = _h5tools.H5DataIO
