"""Latent factor analysis via dynamical systems of calcium imaging.

:class:`CalciumLFADS` is the estimator. The network lies in :mod:`.network`, its priors in :mod:`.priors`, the bound
that is maximised in :mod:`.objective`, and how it is in :mod:`.training`.
"""

from nwb_calcium_lvm.lfads.estimator import CalciumLFADS, Forecast

__all__ = ["CalciumLFADS", "Forecast"]
