"""Gaussian-process factor analysis of calcium imaging.

:class:`CalciumGPFA` is the estimator; :func:`leave_neuron_out` scores fitted models by predicting neurons from others.
The mathematics lies in :mod:`.kernels` and :mod:`.kalman` (latents), :mod:`.readouts` (what latents do to the traces)
and :mod:`.vem` (the bound, and steps that raise it).
"""

from nwb_calcium_lvm._core.cosmoothing import CoSmoothing, leave_neuron_out
from nwb_calcium_lvm.gpfa.estimator import CalciumGPFA

__all__ = ["CalciumGPFA", "CoSmoothing", "leave_neuron_out"]
