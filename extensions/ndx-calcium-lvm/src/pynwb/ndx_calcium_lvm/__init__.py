"""NWB types for the results of latent-variable models of calcium imaging.

Importing this package registers the types with pynwb. The classes are made from the specification, exactly as pynwb
makes them from a file that carries it: a file is read alike with and without this package.
"""

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

# What pynwb makes at run time has no types that a checker could know.
_pynwb: Any = import_module("pynwb")

__version__ = "0.1.0"

NAMESPACE = "ndx-calcium-lvm"


def _spec_folder() -> Path:
    """Where the specification is: inside the wheel, or in a source tree beside ``src``."""
    shipped = Path(str(files(__name__) / "spec"))
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[3] / "spec"


def _class(name: str) -> Any:
    return _pynwb.get_class(name, NAMESPACE)


_pynwb.load_namespaces(str(_spec_folder() / f"{NAMESPACE}.namespace.yaml"))

CalciumLVMResults = _class("CalciumLVMResults")
CalciumParametersTable = _class("CalciumParametersTable")
DiscreteStateIntervals = _class("DiscreteStateIntervals")
DiscreteStateSeries = _class("DiscreteStateSeries")
EstimatorState = _class("EstimatorState")
FittedModel = _class("FittedModel")
InferredRoiSeries = _class("InferredRoiSeries")
InferredSeries = _class("InferredSeries")
LabeledArray = _class("LabeledArray")
LatentSeries = _class("LatentSeries")
ParameterColumn = _class("ParameterColumn")
SegmentIntervals = _class("SegmentIntervals")
SpikeCountSeries = _class("SpikeCountSeries")
SpikeRateSeries = _class("SpikeRateSeries")
StateProbabilitySeries = _class("StateProbabilitySeries")
TraceSource = _class("TraceSource")

__all__ = [
    "NAMESPACE",
    "CalciumLVMResults",
    "CalciumParametersTable",
    "DiscreteStateIntervals",
    "DiscreteStateSeries",
    "EstimatorState",
    "FittedModel",
    "InferredRoiSeries",
    "InferredSeries",
    "LabeledArray",
    "LatentSeries",
    "ParameterColumn",
    "SegmentIntervals",
    "SpikeCountSeries",
    "SpikeRateSeries",
    "StateProbabilitySeries",
    "TraceSource",
    "__version__",
]
