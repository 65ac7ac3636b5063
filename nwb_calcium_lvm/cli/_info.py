"""``nwb-calcium-lvm info``: what is in there, and what would be read."""

from __future__ import annotations

import numpy as np

from nwb_calcium_lvm.cli._console import Say, table
from nwb_calcium_lvm.cli._reading import Reading
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording


def run_info(reading: Reading, say: Say) -> None:
    """Print the contents of the source and what reading it gives.

    Raises
    ------
    DataError
        If it cannot be read as it is; what is in there has been printed then.
    """
    if not reading.path.exists():
        raise DataError(f"{reading.path} does not exist. Expected an NWB file or a Suite2p folder.")
    say(f"{reading.path} ({'Suite2p folder' if reading.is_suite2p else 'NWB file'})")
    if not reading.is_suite2p:
        _say_series(reading, say)
        _say_results(reading, say)
    recording = reading.read()
    say(f"\nReads as: {recording!r}")
    for line in facts(recording):
        say(f"  {line}")


def facts(recording: Recording) -> list[str]:
    """Return what is worth knowing about a recording before a fit, a line each."""
    lines = []
    if recording.source.neuropil:
        lines.append(f"neuropil: {recording.source.neuropil}")
    planes = recording.source.planes
    if planes is not None and len(np.unique(planes)) > 1:
        numbers, counts = np.unique(planes, return_counts=True)
        lines.append("ROIs per plane: " + ", ".join(f"plane {p}: {n}" for p, n in zip(numbers, counts, strict=True)))
    noise = recording.roi_metadata.get("noise_level")
    if noise is not None and np.isfinite(noise).any():
        low, middle, high = np.nanquantile(noise, [0.1, 0.5, 0.9])
        lines.append(f"noise level: median {middle:.2g} %/sqrt(Hz) (10 to 90 % of ROIs: {low:.2g} to {high:.2g})")
    if recording.trials is not None:
        columns = ", ".join(recording.trials)
        lines.append(f"trials: {len(recording.trials['id'])}, with columns {columns}")
    others = [key for key in recording.roi_metadata if key != "noise_level"]
    if others:
        lines.append(f"known of each ROI: {', '.join(others)}")
    return lines


def _say_series(reading: Reading, say: Say) -> None:
    from nwb_calcium_lvm.io import describe_nwb

    found = describe_nwb(reading.path)
    if not found:
        return
    rows = [
        (
            entry["read_as"] or "-",
            entry["kind"],
            entry["path"],
            entry["n_rois"],
            entry["n_accepted"],
            entry["n_frames"],
            entry["rate"],
            entry["problem"],
        )
        for entry in found
    ]
    header = ("read as", "kind", "series", "ROIs", "accepted", "frames", "Hz", "")
    say(table(rows, header))


def _say_results(reading: Reading, say: Say) -> None:
    from nwb_calcium_lvm.io import read_results

    found = read_results(reading.path, lazy=True)
    if not found:
        return
    rows = [
        (
            name,
            str(result.model.get("name", "?")),
            "yes" if result.converged else "no",
            len(result.roi_ids),
            len(result.time),
            ", ".join(result.arrays),
        )
        for name, result in found.items()
    ]
    say("\nResults in it:")
    say(table(rows, ("name", "model", "converged", "ROIs", "frames", "arrays")))
