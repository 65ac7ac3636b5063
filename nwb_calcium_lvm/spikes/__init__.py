"""Spikes from fluorescence, trace by trace.

:class:`S2SSpikeEstimator` uses small networks that were trained on recordings with known spikes;
:class:`FilterSpikeEstimator` infers them from a model of calcium, spikes and noise, and needs no training;
:class:`OASISSpikeEstimator` deconvolves, for comparison. All spike estimators
give spikes per s on the recording's own clock and expected counts per frame, and are scored alike.
"""

from nwb_calcium_lvm.spikes.configs import DEFAULT, PUBLISHED, S2SConfig
from nwb_calcium_lvm.spikes.filter_estimator import FilterSpikeEstimator
from nwb_calcium_lvm.spikes.oasis_estimator import OASISSpikeEstimator
from nwb_calcium_lvm.spikes.s2s import S2SSpikeEstimator
from nwb_calcium_lvm.spikes.scorers import SpikeScorer

__all__ = [
    "DEFAULT",
    "PUBLISHED",
    "FilterSpikeEstimator",
    "OASISSpikeEstimator",
    "S2SConfig",
    "S2SSpikeEstimator",
    "SpikeScorer",
]
