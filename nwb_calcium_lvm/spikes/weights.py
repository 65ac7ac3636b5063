"""Trained networks on disk and in the package: arrays and JSON in one file, nothing that executes."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from nwb_calcium_lvm._core.pytrees import flatten, unflatten
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.spikes.calibration import Calibration
from nwb_calcium_lvm.spikes.configs import S2SConfig
from nwb_calcium_lvm.spikes.inference import Networks
from nwb_calcium_lvm.spikes.training import build

_FOLDER = "pretrained"


def members_to_arrays(members: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Return the weights of all members by name, the members along the first axis."""
    flat = [flatten(m) for m in members]
    return {name: np.stack([f[name] for f in flat]) for name in flat[0]}


def members_from_arrays(config: S2SConfig, arrays: dict[str, np.ndarray], gain: float) -> Networks:
    """Rebuild networks from :func:`members_to_arrays`.

    Raises
    ------
    DataError
        If the arrays are not the weights of this configuration.
    """
    graph, like = build(config, 0)
    try:
        n = len(next(iter(arrays.values())))
        members = tuple(unflatten(like, {name: a[i] for name, a in arrays.items()}) for i in range(n))
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise DataError(f"These weights are not those of this configuration ({error}).") from error
    return Networks(graph, members, gain)


def available() -> list[str]:
    """Return the names of the weights that come with the package."""
    folder = files("nwb_calcium_lvm.spikes") / _FOLDER
    if not folder.is_dir():
        return []
    return sorted(f.name.removesuffix(".npz") for f in folder.iterdir() if f.name.endswith(".npz"))


def read_weights(name: str | Path) -> tuple[S2SConfig, Networks, Calibration, dict[str, Any]]:
    """Read weights by the name under which they come with the package, or from a file.

    Returns
    -------
    config, networks, calibration, card
        ``card`` says what the networks were trained on.
    """
    if Path(name).suffix == ".npz":
        return _read(Path(name).expanduser())
    if name not in available():
        known = ", ".join(available()) or "none"
        raise DataError(
            f"There are no weights called {str(name)!r}. With the package come: {known}. Or pass a .npz file."
        )
    with as_file(files("nwb_calcium_lvm.spikes") / _FOLDER / f"{name}.npz") as path:
        return _read(path)


def write_weights(
    path: Path, config: S2SConfig, networks: Networks, calibration: Calibration, card: dict[str, Any]
) -> Path:
    """Write weights to a file that :func:`read_weights` reads."""
    from nwb_calcium_lvm.io.archive import write_archive

    header = {
        "content": "s2s weights",
        "config": config.to_dict(),
        "calibration": {k: np.asarray(v).tolist() for k, v in calibration._asdict().items()},
        "card": card,
    }
    return write_archive(path, header, members_to_arrays(networks.members))


def _read(path: Path) -> tuple[S2SConfig, Networks, Calibration, dict[str, Any]]:
    from nwb_calcium_lvm.io.archive import read_archive

    header, arrays = read_archive(path)
    try:
        config = S2SConfig.from_dict(header["config"])
        found = header["calibration"]
        calibration = Calibration(
            float(found["gain"]), np.array(found["windows"]), np.array(found["dispersion"]), int(found["n_neurons"])
        )
        return config, members_from_arrays(config, arrays, calibration.gain), calibration, dict(header["card"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} does not hold weights of a spike network ({error!r}).") from error
