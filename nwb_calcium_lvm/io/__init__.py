"""Reading and writing NWB files and Suite2p folders; needs neither JAX nor a model."""

from nwb_calcium_lvm.io.nwb_read import describe_nwb, read_nwb

__all__ = ["describe_nwb", "read_nwb"]
