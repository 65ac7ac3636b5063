"""Relative references of an NWB file kept valid when its copy lies in another folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py


def keep_references(file: h5py.File, old: Path, new: Path) -> None:
    """Rewrite relative external links and external movie files, which start at the file's own folder."""
    if old == new:
        return
    found: list[tuple[str, h5py.ExternalLink]] = []

    def visit(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink) and not os.path.isabs(link.filename):
            found.append((name, link))

    file.visititems_links(visit)
    for name, link in found:
        del file[name]
        file[name] = h5py.ExternalLink(moved(link.filename, old, new), link.path)

    def visit_object(name: str, obj: Any) -> None:
        if name.rpartition("/")[2] == "external_file" and isinstance(obj, h5py.Dataset):
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in obj[:]]
            obj[:] = [n if os.path.isabs(n) or "://" in n else moved(n, old, new) for n in names]

    file.visititems(visit_object)


def moved(name: str, old: Path, new: Path) -> str:
    """Return a relative path that led somewhere from one folder, as it does from another."""
    if not name:  # Suite2p writes an empty name for a movie it does not know
        return name
    try:
        return os.path.relpath(old / name, new)
    except ValueError:  # another drive, on Windows
        return str(old / name)
