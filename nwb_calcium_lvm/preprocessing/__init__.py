"""From raw fluorescence to dF/F: neuropil, baseline, noise level, bad frames, times of planes.

Pure functions over arrays of shape (time, roi); a mask is of shape (time, roi) or (time,), True where observed.
"""

from nwb_calcium_lvm.preprocessing.baseline import METHODS, baseline, dff
from nwb_calcium_lvm.preprocessing.frames import constant_rois, fill_missing
from nwb_calcium_lvm.preprocessing.neuropil import subtract_neuropil
from nwb_calcium_lvm.preprocessing.noise import frame_noise, noise_level
from nwb_calcium_lvm.preprocessing.pipeline import dff_from_raw
from nwb_calcium_lvm.preprocessing.planes import at_frame_times

__all__ = [
    "METHODS",
    "at_frame_times",
    "baseline",
    "constant_rois",
    "dff",
    "dff_from_raw",
    "fill_missing",
    "frame_noise",
    "noise_level",
    "subtract_neuropil",
]
