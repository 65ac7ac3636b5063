"""The fitted attributes of CalciumLFADS and the arrays of the compiled functions, one made from the other."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm._core.pytrees import flatten, unflatten
from nwb_calcium_lvm.lfads import parameters
from nwb_calcium_lvm.lfads.fitting import Problem, Scale, model_of
from nwb_calcium_lvm.lfads.network import Architecture
from nwb_calcium_lvm.lfads.objective import Model, Weights
from nwb_calcium_lvm.lfads.training import Trained
from nwb_calcium_lvm.recording import Recording

_OF_PARAMETERS = ("ar_coefs", "spike_amplitude", "noise_variance", "measurement_variance", "gain")
_PLAIN = ("sampling_rate_", "seed_", "n_iter_", "converged_", "n_samples_", "validation_score_", "window_frames_")


def store(estimator: Any, recordings: list[Recording], seed: int, problem: Problem, trained: Trained) -> None:
    """Set the fitted attributes after training."""
    estimator.sampling_rate_, estimator.seed_ = recordings[0].sampling_rate or estimator.sampling_rate, seed
    estimator.session_roi_ids_ = [np.asarray(r.roi_ids) for r in recordings]
    estimator.scales_ = problem.scales
    estimator.window_frames_ = problem.window
    estimator.history_ = trained.history
    estimator.n_iter_ = len(trained.history)
    estimator.converged_ = bool(trained.stopped_early)
    scored = [np.asarray(part.scored) for part in problem.split]
    estimator.n_samples_ = int(sum(part.sum() for part in scored))
    estimator.validation_score_ = trained.score - _log_scale(problem, scored[1])
    shape = nnx.merge(problem.model.graph, problem.weights.network).shape
    _set(estimator, shape, flatten(trained.weights.network), flatten(trained.weights.observation))


def _log_scale(problem: Problem, scored: NDArray[np.bool_]) -> float:
    """Mean log sd of the scored samples left out: the density of traces as given is that of scaled ones over it."""
    session = np.asarray(problem.split.validation.session)
    total = sum(
        (scored[session == i].sum(axis=(0, 1))[: len(scale.sd)] * np.log(scale.sd)).sum()
        for i, scale in enumerate(problem.scales)
    )
    return float(total / max(scored.sum(), 1))


def _set(estimator: Any, shape: Architecture, network: dict[str, Any], free: dict[str, Any]) -> None:
    """Set the weights, and what users see of them."""
    estimator.shape_, estimator.network_, estimator.free_parameters_ = shape, network, free
    ids = estimator.session_roi_ids_
    estimator.roi_ids_ = ids[0] if len(ids) == 1 else np.concatenate(ids)
    model, weights = network_of(estimator)
    net = nnx.merge(model.graph, weights.network)
    read_out, offset = np.asarray(net.read_out[...]), np.asarray(net.log_rate[...])
    observation = observations.get(model.observation)
    found = jax.tree.map(np.asarray, observation.constrain(weights.observation))
    by_session = []
    for i, (roi_ids, scale) in enumerate(zip(ids, estimator.scales_, strict=True)):
        n = len(roi_ids)
        mine = jax.tree.map(lambda a, i=i, n=n: a[i, :n].astype(float), found)
        mine = parameters.to_data_units(mine, scale.mean, scale.sd)
        values = {"loadings": read_out[i, :, :n].T, "offset": offset[i, :n], "baseline": parameters.baseline(mine)}
        by_session.append(values | {name: getattr(mine, name, None) for name in _OF_PARAMETERS})
    for name in by_session[0]:
        values = [np.asarray(v[name]) for v in by_session if v[name] is not None]
        if values:
            setattr(estimator, f"{name}_", values[0] if len(ids) == 1 else values)
        elif hasattr(estimator, f"{name}_"):  # of an earlier fit with another observation model
            delattr(estimator, f"{name}_")


def network_of(estimator: Any) -> tuple[Model, Weights]:
    """Return model and weights of a fitted estimator."""
    model, like = _like(estimator.shape_, estimator.observation)
    free = {k.strip("[']"): jnp.asarray(v) for k, v in estimator.free_parameters_.items()}
    return model, Weights(unflatten(like, estimator.network_), free)


@lru_cache(maxsize=8)
def _like(shape: Architecture, observation: str) -> tuple[Model, Any]:
    return model_of(shape, observation)


def data_parameters(estimator: Any, number: int) -> Any:
    """Return the observation model's parameters of a session in the units of its traces."""
    model, weights = network_of(estimator)
    found = jax.tree.map(np.asarray, observations.get(model.observation).constrain(weights.observation))
    scale = estimator.scales_[number]
    mine = jax.tree.map(lambda a: a[number, : len(scale.sd)].astype(float), found)
    return parameters.to_data_units(mine, scale.mean, scale.sd)


# -- Files ------------------------------------------------------------------------------------------------------------


def to_save(estimator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arguments and fitted attributes as arrays and what JSON can hold."""
    arguments = estimator.get_params(deep=False)
    if arguments["checkpoint_dir"] is not None:
        arguments["checkpoint_dir"] = str(arguments["checkpoint_dir"])
    fitted: dict[str, Any] = {name: getattr(estimator, name) for name in (*_PLAIN, "history_", "n_features_in_")}
    fitted["shape_"] = asdict(estimator.shape_)
    fitted |= {f"network:{k}": v for k, v in estimator.network_.items()}
    fitted |= {f"free:{k}": v for k, v in estimator.free_parameters_.items()}
    for i, (scale, ids) in enumerate(zip(estimator.scales_, estimator.session_roi_ids_, strict=True)):
        fitted |= {f"session{i}:{k}": v for k, v in scale._asdict().items()}
        fitted[f"session{i}:roi_ids"] = ids
    if hasattr(estimator, "feature_names_in_"):
        fitted["feature_names_in_"] = estimator.feature_names_in_
    return arguments, fitted


def restore(estimator: Any, fitted: dict[str, Any]) -> Any:
    """Set the fitted attributes from what :func:`to_save` returned."""
    for name in (*_PLAIN, "history_", "n_features_in_"):
        setattr(estimator, name, fitted[name])
    if "feature_names_in_" in fitted:
        estimator.feature_names_in_ = fitted["feature_names_in_"]
    shape = Architecture(**fitted["shape_"])
    names = [f"session{i}" for i in range(shape.n_sessions)]
    estimator.scales_ = [Scale(*(np.asarray(fitted[f"{s}:{field}"]) for field in Scale._fields)) for s in names]
    estimator.session_roi_ids_ = [np.asarray(fitted[f"{s}:roi_ids"]) for s in names]
    network, free = (_named(fitted, prefix) for prefix in ("network:", "free:"))
    _set(estimator, shape, network, free)
    return estimator


def _named(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
