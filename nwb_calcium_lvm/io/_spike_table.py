"""Single spikes as a table of units in the module: a row per ROI, as every NWB reader knows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.io import _classes as nwb
from nwb_calcium_lvm.io._build import Place
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._plain import as_stored, storable
from nwb_calcium_lvm.result import InferenceResult, SpikeTimes

SPIKES = "_spikes"  # ends the name of the table, after that of the result
_COLUMNS = (
    ("spike_times", "Times of the spikes in s."),
    ("confidence", "Probability of each spike."),
)


def spike_names(label: str, result: InferenceResult) -> list[str]:
    """Return the name of the table of spikes, if there is one."""
    return [] if result.spikes is None else [label + SPIKES]


def is_spike_table(obj: Any) -> bool:
    """Return whether an object is a table that :func:`add_spikes` made."""
    return isinstance(obj, nwb.Units) and {name for name, _ in _COLUMNS} <= set(obj.colnames)


def add_spikes(label: str, result: InferenceResult, place: Place) -> None:
    """Add the table of single spikes to the module, if the result has any."""
    if result.spikes is None:
        return
    if result.time_unit != "s":
        raise DataError("Single spikes cannot be stored: their times are in frames, and NWB tells them in s.")
    columns: list[NwbObject] = [
        place.rois("roi", "The ROI: its row in the plane segmentation."),
        nwb.VectorData(
            name="roi_id", description="Name of the ROI.", data=as_stored(storable("roi_ids", result.roi_ids))
        ),
    ]
    ends = np.cumsum([len(t) for t in result.spikes.times])
    for (name, description), parts in zip(_COLUMNS, result.spikes, strict=True):
        values = nwb.VectorData(name=name, description=description, data=np.concatenate([*parts, np.zeros(0)]))
        columns += [values, nwb.VectorIndex(name=f"{name}_index", target=values, data=ends)]
    place.room.add(
        nwb.Units(
            name=label + SPIKES,
            description=f"Single spikes that {label} found in fluorescence, a row per ROI; none was recorded.",
            id=list(range(len(ends))),
            columns=columns,
        )
    )


def read_spikes(table: NwbObject | None) -> SpikeTimes | None:
    """Return the spikes of a table that :func:`add_spikes` made; None for anything else."""
    if table is None or not is_spike_table(table):
        return None
    parts = []
    for name, _ in _COLUMNS:
        index = table[name]  # of a ragged column, hdmf gives the ends of its rows
        ends = np.asarray(index.data[:], int)
        parts.append(np.split(np.asarray(index.target.data[:], float), ends[:-1]))
    return SpikeTimes(*parts)
