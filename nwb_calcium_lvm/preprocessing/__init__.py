"""From raw fluorescence to dF/F: neuropil, baseline, noise level, bad frames."""
