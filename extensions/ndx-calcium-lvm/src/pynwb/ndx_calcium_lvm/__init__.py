"""NWB types for the results of latent-variable models of calcium imaging.

Importing this package registers the types with pynwb. The classes are made from the specification, exactly as pynwb
makes them from a file that carries it: a file is read alike with and without this package.
"""

from importlib.resources import files
from pathlib import Path

from pynwb import get_class, load_namespaces

__version__ = "0.1.0"

NAMESPACE = "ndx-calcium-lvm"


def _spec_folder() -> Path:
    """Where the specification is: inside the wheel, or in a source tree beside ``src``."""
    shipped = Path(str(files(__name__) / "spec"))
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[3] / "spec"


load_namespaces(str(_spec_folder() / f"{NAMESPACE}.namespace.yaml"))

CalciumLVMResults = get_class("CalciumLVMResults", NAMESPACE)
CalciumParametersTable = get_class("CalciumParametersTable", NAMESPACE)
DiscreteStateIntervals = get_class("DiscreteStateIntervals", NAMESPACE)
DiscreteStateSeries = get_class("DiscreteStateSeries", NAMESPACE)
EstimatorState = get_class("EstimatorState", NAMESPACE)
FittedModel = get_class("FittedModel", NAMESPACE)
InferredRoiSeries = get_class("InferredRoiSeries", NAMESPACE)
InferredSeries = get_class("InferredSeries", NAMESPACE)
LabeledArray = get_class("LabeledArray", NAMESPACE)
LatentSeries = get_class("LatentSeries", NAMESPACE)
ParameterColumn = get_class("ParameterColumn", NAMESPACE)
SegmentIntervals = get_class("SegmentIntervals", NAMESPACE)
SpikeCountSeries = get_class("SpikeCountSeries", NAMESPACE)
SpikeRateSeries = get_class("SpikeRateSeries", NAMESPACE)
StateProbabilitySeries = get_class("StateProbabilitySeries", NAMESPACE)
TraceSource = get_class("TraceSource", NAMESPACE)

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
