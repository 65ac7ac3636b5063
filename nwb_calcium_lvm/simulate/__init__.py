"""Simulated calcium recordings whose states, spikes and rates are known.

:func:`hmm_experiment` draws from the calcium hidden Markov model itself, :func:`gpfa_experiment` from a few smooth
latents, :func:`lorenz_experiment` and :func:`kicked_pendulum` from nonlinear dynamics, :func:`session` from biophysics
that the models do not assume (saturating indicator, bleaching, neuropil, shot noise), and :func:`odor_surrogate` gives
trials of the shape of an odor experiment. All take ``random_state`` and give the same data for the same seed.
"""

from nwb_calcium_lvm.simulate._data import SimulatedSession
from nwb_calcium_lvm.simulate._dynamics import SimulatedDynamics, kicked_pendulum, lorenz_experiment
from nwb_calcium_lvm.simulate._gpfa import SimulatedLatents, gpfa_experiment, smooth_path
from nwb_calcium_lvm.simulate._hmm import ar_calcium, hmm_experiment, markov_chain
from nwb_calcium_lvm.simulate._odor import odor_surrogate
from nwb_calcium_lvm.simulate._session import Biophysics, indicator_response, session

__all__ = [
    "Biophysics",
    "SimulatedDynamics",
    "SimulatedLatents",
    "SimulatedSession",
    "ar_calcium",
    "gpfa_experiment",
    "hmm_experiment",
    "indicator_response",
    "kicked_pendulum",
    "lorenz_experiment",
    "markov_chain",
    "odor_surrogate",
    "session",
    "smooth_path",
]
