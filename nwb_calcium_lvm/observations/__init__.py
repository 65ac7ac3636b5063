"""Observation models: the density of a trace given its past and the rate of unseen spikes."""
