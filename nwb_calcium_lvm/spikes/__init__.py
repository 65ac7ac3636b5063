"""Spikes from fluorescence, trace by trace.

:class:`S2SSpikeEstimator` uses small networks that were trained on recordings with known spikes;
:class:`VAESpikeEstimator` has a network that inverts a generative model of the indicator, trained on its dreams;
:class:`FilterSpikeEstimator` infers them from a model of calcium, spikes and noise, and needs no training;
:class:`OASISSpikeEstimator` deconvolves, for comparison. All spike estimators
give spikes per s on the recording's own clock and expected counts per frame, and are scored alike.
"""

from nwb_calcium_lvm.spikes.configs import DEFAULT, PUBLISHED, S2SConfig
from nwb_calcium_lvm.spikes.filter_estimator import FilterSpikeEstimator
from nwb_calcium_lvm.spikes.oasis_estimator import OASISSpikeEstimator
from nwb_calcium_lvm.spikes.s2s import S2SSpikeEstimator
from nwb_calcium_lvm.spikes.scorers import SpikeScorer
from nwb_calcium_lvm.spikes.vae_estimator import VAESpikeEstimator

__all__ = [
    "DEFAULT",
    "PUBLISHED",
    "FilterSpikeEstimator",
    "OASISSpikeEstimator",
    "S2SConfig",
    "S2SSpikeEstimator",
    "SpikeScorer",
    "VAESpikeEstimator",
]
