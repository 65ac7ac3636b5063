"""Trained recognition networks on disk and in the package: arrays and JSON in one file, nothing that executes."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nwb_calcium_lvm._core.pytrees import flatten, unflatten
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.spikes.vae.generative import MODELS, GenerativeModel, LogNormal, model_of
from nwb_calcium_lvm.spikes.vae.recognition import RecognitionConfig
from nwb_calcium_lvm.spikes.vae.training import Network, shaped

_FOLDER = "pretrained"


class Trained(NamedTuple):
    """A network with all that is needed to use it.

    Attributes
    ----------
    network : Network
    config : RecognitionConfig
    model : GenerativeModel
        With the prior that the network was trained for.
    card : dict
        How it was trained.
    """

    network: Network
    config: RecognitionConfig
    model: GenerativeModel
    card: dict[str, Any]


def pretrained(name: str) -> Trained:
    """Return the network that comes with the package for a generative model.

    Raises
    ------
    DataError
        If there is none of that name.
    """
    if name not in MODELS:
        raise DataError(f"There is no network called {name!r}. With the package come: {', '.join(MODELS)}.")
    with as_file(files("nwb_calcium_lvm.spikes.vae") / _FOLDER / f"{name}.npz") as path:
        return read_weights(path)


def without_sequence(trained: Trained) -> Trained:
    """Return the network whose counts are independent from frame to frame: the same marginals."""
    if not trained.config.correlated:
        return trained
    config = replace(trained.config, correlated=False)
    like = shaped(config, trained.model)
    arrays = flatten(trained.network.params)
    return trained._replace(network=like._replace(params=unflatten(like.params, arrays)), config=config)


def without_graph(trained: Trained) -> Trained:
    """Return the network without how it is built, which no pickle can hold."""
    return trained._replace(network=trained.network._replace(graph=None))


def with_graph(trained: Trained) -> Trained:
    """Return the network of :func:`without_graph`, whole again."""
    graph = shaped(trained.config, trained.model).graph
    return trained._replace(network=trained.network._replace(graph=graph))


def to_plain(trained: Trained) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return header and arrays that :func:`from_plain` takes.

    Raises
    ------
    DataError
        If the generative model is a function of the user's, which no file can hold.
    """
    name = trained.model.name
    if name not in MODELS or MODELS[name].trace is not trained.model.trace:
        raise DataError(
            f"The generative model {name!r} is a function of your own, which no file can hold. Keep it in code, or use "
            f"one of {', '.join(MODELS)}."
        )
    header = {
        "generative": name,
        "prior": {k: [p.median, p.spread] for k, p in trained.model.parameters.items()},
        "config": asdict(trained.config),
        "card": trained.card,
    }
    return header, flatten(trained.network.params)


def from_plain(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trained:
    """Rebuild what :func:`to_plain` took apart; DataError if it does not fit together."""
    try:
        known = {f.name for f in fields(RecognitionConfig)}
        stored: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in header["config"].items() if k in known
        }
        config = RecognitionConfig(**stored)
        base = model_of(str(header["generative"]))
        prior = {k: LogNormal(float(m), float(s)) for k, (m, s) in header["prior"].items()}
        if set(prior) != set(base.parameters):
            raise ValueError(f"a {base.name} has {', '.join(base.parameters)}, not {', '.join(prior)}")
        model = GenerativeModel(base.name, base.trace, {k: prior[k] for k in base.parameters}, base.n_channels)
        like = shaped(config, model)
        return Trained(like._replace(params=unflatten(like.params, arrays)), config, model, dict(header["card"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"This is not a recognition network of this version ({error!r}).") from error


def write_weights(path: Path, trained: Trained) -> Path:
    """Write a network to a file that :func:`read_weights` reads, its weights in half precision."""
    from nwb_calcium_lvm.io.archive import write_archive

    header, arrays = to_plain(trained)
    return write_archive(
        path, {"content": "vae weights", **header}, {k: v.astype(np.float16) for k, v in arrays.items()}
    )


def read_weights(path: Path) -> Trained:
    """Read a network from a file."""
    from nwb_calcium_lvm.io.archive import read_archive

    return from_plain(*read_archive(path))
