"""One model over many sessions: on the processes of this machine or on a Dask cluster, resumed after a kill."""

from nwb_calcium_lvm.batch.records import Record
from nwb_calcium_lvm.batch.run import plan_batch, run_batch
from nwb_calcium_lvm.batch.settings import Settings, read_settings

__all__ = ["Record", "Settings", "plan_batch", "read_settings", "run_batch"]
