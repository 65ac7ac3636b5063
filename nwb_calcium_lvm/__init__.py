"""Latent-variable models for calcium imaging, from NWB files and Suite2p folders and back into NWB.

The public names are loaded on first use, so that importing the package starts no JAX backend and takes no device
memory.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "CalciumGPFA": "gpfa",
    "CalciumHMM": "hmm",
    "CalciumLFADS": "lfads",
    "FilterSpikeEstimator": "spikes",
    "Indicator": "indicators",
    "InferenceResult": "result",
    "OASISSpikeEstimator": "spikes",
    "Recording": "recording",
    "S2SSpikeEstimator": "spikes",
    "VAESpikeEstimator": "spikes",
    "cite": "citing",
    "load_model": "_core.persistence",
    "read_nwb": "io",
    "read_results": "io",
    "read_suite2p": "io",
    "write_nwb": "io",
    "write_suite2p": "io",
}
_MODULES = (
    "alignment",
    "batch",
    "exceptions",
    "gpfa",
    "hmm",
    "indicators",
    "io",
    "lfads",
    "metrics",
    "observations",
    "plotting",
    "preprocessing",
    "report",
    "simulate",
    "spikes",
    "splitters",
)

__all__ = ["__version__", *sorted(_HOME), *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
