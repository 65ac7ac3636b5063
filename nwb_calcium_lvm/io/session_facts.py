"""What an NWB file says of its session and subject, as plain text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from nwb_calcium_lvm.io._open import opened

_OF_SESSION = (
    "session_id",
    "identifier",
    "session_start_time",
    "session_description",
    "experiment_description",
    "experimenter",
    "lab",
    "institution",
    "keywords",
)
_OF_SUBJECT = ("subject_id", "species", "strain", "genotype", "sex", "age", "description")
_OF_PLANE = ("location", "indicator", "imaging_rate", "excitation_lambda", "description")
_LONGEST = 2000  # characters of one text: what is longer is no fact but an essay


def describe_session(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """Return what a file says of session, subject and imaging planes; what it does not say is left out.

    Parameters
    ----------
    path : path
        NWB file, HDF5 or Zarr.

    Returns
    -------
    dict of str to dict of str to str
        By heading (``"Session"``, ``"Subject"``, ``"Imaging plane NAME"``), then by name of the fact.
    """
    with opened(Path(path)) as (nwbfile, _, _):
        found = {"Session": _texts(nwbfile, _OF_SESSION)}
        if nwbfile.subject is not None:
            found["Subject"] = _texts(nwbfile.subject, _OF_SUBJECT)
        for name, plane in nwbfile.imaging_planes.items():
            found[f"Imaging plane {name}"] = _texts(plane, _OF_PLANE)
    return {heading: facts for heading, facts in found.items() if facts}


def _texts(holder: Any, names: tuple[str, ...]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for name in names:
        value: Any = getattr(holder, name, None)
        if value is None:
            continue
        text = _text(value)
        if text.strip() and text != "nan":  # a wavelength that nobody noted
            facts[name.replace("_", " ")] = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    return facts


def _text(value: Any) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(str(v) for v in islice(value, 50))
    return str(value)
