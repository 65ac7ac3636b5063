"""What in an NWB file leads into an object that is about to be replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from nwb_calcium_lvm.io._classes import NwbObject, TimeSeriesReferenceVectorData
from nwb_calcium_lvm.io.nwb_series import object_path


def links_into(nwbfile: NwbObject, path: Path, objects: list[NwbObject]) -> list[str]:
    """Return the paths of what lies elsewhere in a file and links or refers to something in the objects."""
    inside = {id(o) for top in objects for o in top.all_objects.values()}
    found = {
        object_path(obj, nwbfile)
        for obj in nwbfile.objects.values()
        if obj.parent is not None
        and id(obj) not in inside
        and (any(id(v) in inside and v.parent is not obj for v in obj.fields.values()) or _has_row(obj, inside))
    }
    tops = [f"/{object_path(o, nwbfile)}" for o in objects]
    for name, target in _zarr_links(path) if path.is_dir() else _hdf5_links(path):
        if _within(target, tops) and not _within(f"/{name}", tops):
            found.add(name)
    return sorted(found)


def _has_row(column: NwbObject, inside: set[int]) -> bool:
    """Say whether a column of references to time series, such as trials may have, refers to one of the objects."""
    return isinstance(column, TimeSeriesReferenceVectorData) and any(id(row.timeseries) in inside for row in column[:])


def _within(path: str, tops: list[str]) -> bool:
    return any(f"{path}/".startswith(f"{top}/") for top in tops)


def _hdf5_links(path: Path) -> list[tuple[str, str]]:
    """Soft links of a file: where they are and where they lead."""
    found: list[tuple[str, str]] = []

    def visit(name: str, link: Any) -> None:
        if isinstance(link, h5py.SoftLink):
            found.append((name, link.path))

    with h5py.File(path, "r") as file:
        file.visititems_links(visit)
    return found


def _zarr_links(path: Path) -> Iterator[tuple[str, str]]:
    """Links of a store, which hdmf-zarr keeps as attributes of the group they are in."""
    for file in (*path.rglob(".zattrs"), *path.rglob("zarr.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        facts = facts.get("attributes", facts)
        for link in (*facts.get("zarr_link", ()), *facts.get("_LINKS", ())):  # as of Zarr version 2, and 3
            yield str((file.parent / link["name"]).relative_to(path).as_posix()), str(link["path"])
