"""Observation models as the HMM uses them: likelihood per state, sufficient statistics, closed-form maximiser."""

from nwb_calcium_lvm.hmm.emissions.calcium import CalciumEmission
from nwb_calcium_lvm.hmm.emissions.calcium_noisy import CalciumNoisyEmission
from nwb_calcium_lvm.hmm.emissions.gaussian import GaussianEmission
from nwb_calcium_lvm.hmm.emissions.poisson import PoissonEmission
from nwb_calcium_lvm.hmm.emissions.protocol import Chunk, Emission, Prior

__all__ = [
    "CalciumEmission",
    "CalciumNoisyEmission",
    "Chunk",
    "Emission",
    "GaussianEmission",
    "PoissonEmission",
    "Prior",
]
