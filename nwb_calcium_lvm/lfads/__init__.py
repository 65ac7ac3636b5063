"""Latent factor analysis via dynamical systems of calcium imaging.

:class:`CalciumLFADS` is the estimator, :func:`search` looks for its hyper-parameters. The network lies in
:mod:`.network`, its priors in :mod:`.priors`, the bound that is maximised in :mod:`.objective`, and how it is in
:mod:`.training`.
"""

from nwb_calcium_lvm._core.cosmoothing import CoSmoothing, leave_neuron_out
from nwb_calcium_lvm.lfads.estimator import CalciumLFADS, Forecast
from nwb_calcium_lvm.lfads.search import Search, search

__all__ = ["CalciumLFADS", "CoSmoothing", "Forecast", "Search", "leave_neuron_out", "search"]
