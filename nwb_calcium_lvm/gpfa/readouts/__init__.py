"""Observation models as the latents use them: a bound, the sites that raise it, and updates of the weights."""

from nwb_calcium_lvm.gpfa.readouts.gaussian import GaussianReadout, LinearParams
from nwb_calcium_lvm.gpfa.readouts.noisy import NoisyReadout
from nwb_calcium_lvm.gpfa.readouts.protocol import Block, Latents, Look, Prior, Readout, Weights
from nwb_calcium_lvm.gpfa.readouts.spikes import SpikeReadout

__all__ = [
    "Block",
    "GaussianReadout",
    "Latents",
    "LinearParams",
    "Look",
    "NoisyReadout",
    "Prior",
    "Readout",
    "SpikeReadout",
    "Weights",
]
