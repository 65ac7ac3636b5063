"""A model over several sessions on the workers of this machine, cut off and resumed, with a table and a page for each.

Without files, sessions are simulated. For a real cluster pass the address of its scheduler.
"""

import argparse
from pathlib import Path

from nwb_calcium_lvm import simulate
from nwb_calcium_lvm.batch import Record, read_settings, run_batch
from nwb_calcium_lvm.io.demo_file import write_session_nwb

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("sessions", nargs="*", help="NWB files or Suite2p folders; default: simulated ones")
parser.add_argument("--workers", type=int, default=1, help="processes on this machine; 0: without Dask")
parser.add_argument("--scheduler", help="of a cluster that runs already, such as tcp://host:8786")

FIT = """
[model]
name = "hmm"

[model.parameters]
n_states = 3
n_init = 2
max_iter = 50

[output]
folder = "batch_results"
report = true
"""


def simulated_sessions() -> list[Path]:
    """Write three sessions."""
    made = [
        simulate.session(n_states=3, n_rois=12, duration=60, sampling_rate=10, nu=1.0, random_state=i) for i in range(3)
    ]
    return [write_session_nwb(truth, Path(f"mouse_{i}.nwb")) for i, truth in enumerate(made)]


def tell(record: Record, done: int, total: int) -> None:
    """Print what became of a session."""
    print(f"[{done}/{total}] {Path(record.session).name}: {record.status} {record.error}")


if __name__ == "__main__":  # workers import this file, too
    options = parser.parse_args()
    sessions = options.sessions or simulated_sessions()
    Path("FIT.toml").write_text(FIT)
    settings = read_settings("FIT.toml")
    where = {"scheduler": options.scheduler} if options.scheduler else {"workers": options.workers}

    run_batch(settings, sessions[:1], **where, tell=tell)  # as if the rest had been cut off
    records = run_batch(settings, sessions, **where, tell=tell)  # goes on: the first session is not done again
    for record in records:
        print(f"{Path(record.session).name}: {record.score:.3f} nats per sample, {record.output}, {record.report}")
    print((settings.folder / "summary.csv").read_text())
