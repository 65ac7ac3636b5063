"""Reading and writing NWB files and Suite2p folders; needs neither JAX nor a model."""

from nwb_calcium_lvm.io.ground_truth import GroundTruth, read_ground_truth, read_ground_truth_file, read_spikefinder
from nwb_calcium_lvm.io.nwb_read import describe_nwb, read_nwb, stream_nwb
from nwb_calcium_lvm.io.nwb_write import plan_write, write_nwb
from nwb_calcium_lvm.io.results_read import read_results
from nwb_calcium_lvm.io.suite2p import read_suite2p, stream_suite2p
from nwb_calcium_lvm.io.suite2p_write import write_suite2p

__all__ = [
    "GroundTruth",
    "describe_nwb",
    "plan_write",
    "read_ground_truth",
    "read_ground_truth_file",
    "read_nwb",
    "read_results",
    "read_spikefinder",
    "read_suite2p",
    "stream_nwb",
    "stream_suite2p",
    "write_nwb",
    "write_suite2p",
]
