"""Amortised inference of spikes: generative models of indicators, and networks that invert them."""

from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel, LogNormal, decaying, rising
from nwb_calcium_lvm.spikes.vae.recognition import RecognitionConfig
from nwb_calcium_lvm.spikes.vae.simulation import World

__all__ = ["GenerativeModel", "LogNormal", "RecognitionConfig", "World", "decaying", "rising"]
