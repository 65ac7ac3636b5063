"""From recordings to a trained network: windows, starting values, training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads import parameters, tying
from nwb_calcium_lvm.lfads.data import Data, Session, gather, stack_rois
from nwb_calcium_lvm.lfads.network import Architecture, LFADSNetwork
from nwb_calcium_lvm.lfads.objective import Hyper, Model, Weights
from nwb_calcium_lvm.lfads.training import Recipe, Split
from nwb_calcium_lvm.lfads.windows import Windows, windows_of
from nwb_calcium_lvm.recording import Recording

_LONGEST = 500  # frames of a trial that is one window
_DEFAULT = 100  # frames of the windows of a recording without trials
_FEWEST = 10  # windows that a recording without trials is cut into, at least, if it is long enough
_SHORTEST = 4  # frames of such windows


@dataclass(frozen=True)
class Settings:
    """What the estimator's arguments come to.

    Parameters
    ----------
    observation, ar_order
        As in the estimator.
    window : int or None
        Frames of the longest window; None: by the recording.
    overlap : float
        Share of a window that it has in common with the next.
    validation : float
        Share of windows to choose weights by.
    sizes : Architecture
        With ``n_rois`` and ``n_sessions`` still open.
    hyper : Hyper
    recipe : Recipe
    """

    observation: str
    ar_order: int
    window: int | None
    overlap: float
    validation: float
    sizes: Architecture
    hyper: Hyper
    recipe: Recipe


class Scale(NamedTuple):
    """What was taken out of a session's traces, and how its encoders see them; see ``parameters.Start``."""

    mean: NDArray[np.floating]
    sd: NDArray[np.floating]
    encoding: NDArray[np.floating]


class Problem(NamedTuple):
    """All that training needs.

    Attributes
    ----------
    model, weights, split, hyper, recipe
        See :func:`nwb_calcium_lvm.lfads.training.train`.
    scales : list of Scale
        One for each session.
    window : int
        Frames of the longest window.
    """

    model: Model
    weights: Weights
    split: Split
    hyper: Hyper
    recipe: Recipe
    scales: list[Scale]
    window: int


def model_of(shape: Architecture, observation: str) -> tuple[Model, Any]:
    """Return the model and the first weights of a network whose seed is 0 (only their shapes matter)."""
    return _build(shape, observation, 0)


def _build(shape: Architecture, observation: str, seed: int) -> tuple[Model, Any]:
    graph, network = nnx.split(LFADSNetwork(shape, nnx.Rngs(seed)), nnx.Param)
    # What the encoders see of the traces of these models carries a sample over to the frames after it.
    whole = observation in ("gaussian", "calcium_noisy")
    return Model(graph, observation, whole), network


def prepare(recordings: list[Recording], settings: Settings, seed: int, conditions: Any = None) -> Problem:
    """Cut recordings into windows and find starting values.

    ``conditions`` hold a label for each trial of each recording, if sessions are to be tied by them.

    Raises
    ------
    DataError
        If there are too few windows, or windows too short.
    """
    order = parameters.order_of(settings.observation, settings.ar_order)
    labels = None if conditions is None else tying.labels_of(recordings, conditions)
    cuts = [_cut(r, settings, order) for r in recordings]
    starts = [parameters.start(settings.observation, r, settings.ar_order) for r in recordings]
    n_rois = max(r.n_rois for r in recordings)
    sessions = [Session(s.y, s.innovations, r.mask, w) for s, r, w in zip(starts, recordings, cuts, strict=True)]
    split = _split(gather(sessions, order, n_rois), cuts, settings.validation, seed)
    shape = _sized(settings.sizes, n_rois, len(recordings))
    model, network = _build(shape, settings.observation, seed)
    network["log_rate"][...] = stack_rois([s.log_rate for s in starts], n_rois)
    if labels is not None:
        _tie(network, tying.ties(recordings, starts, labels, min(shape.n_factors, shape.n_encoder)))
    observation = observations.get(settings.observation)
    stacked = stack_rois([s.params for s in starts], n_rois)
    hyper = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), settings.hyper)
    return Problem(
        model,
        Weights(network, observation.unconstrain(stacked)),
        split,
        hyper,
        settings.recipe,
        [Scale(s.mean, s.sd, s.encoding) for s in starts],
        max(w.length for w in cuts),
    )


def _tie(network: Any, found: list[tying.Tie]) -> None:
    """Put ways in and out into the first weights; what no component has a part in starts at 0 on the way in."""
    ways_in, ways_out = np.zeros(network["read_in"].shape), np.array(network["read_out"][...])
    for number, tie in enumerate(found):
        n_rois, n_components = tie.read_in.shape
        ways_in[number, :n_rois, :n_components] = tie.read_in
        ways_out[number, :n_components, :n_rois] = tie.read_out
    network["read_in"][...] = jnp.asarray(ways_in, jnp.float32)
    network["read_out"][...] = jnp.asarray(ways_out, jnp.float32)


def _sized(sizes: Architecture, n_rois: int, n_sessions: int) -> Architecture:
    return replace(sizes, n_rois=n_rois, n_sessions=n_sessions)


def _cut(recording: Recording, settings: Settings, order: int) -> Windows:
    lengths = recording.segments.lengths
    if settings.window is not None:
        longest = settings.window
    elif recording.segments.trial_ids is not None:
        longest = _LONGEST
    else:
        longest = int(np.clip(recording.n_frames // _FEWEST, _SHORTEST, _DEFAULT))
    least = order + 2
    if min(longest, int(lengths.max())) < least:
        raise DataError(
            f"The longest window has {min(longest, int(lengths.max()))} frames; expected at least {least}, since a "
            f"sample needs {order} frames before it. Pass longer trials or a longer window."
        )
    return windows_of(recording.segments, longest, settings.overlap)


def _split(data: Data, cuts: list[Windows], share: float, seed: int) -> Split:
    """Keep some windows of each session to choose weights by; nothing of them is learned from."""
    rng = np.random.default_rng(seed)
    chosen = []
    for windows in cuts:
        n = max(1, round(share * len(windows)))
        if len(windows) < 2:
            raise DataError(
                f"A recording of {windows.n_frames} frames makes 1 window. Expected at least 2: one to learn from and "
                "one to choose weights by. Pass more trials, or a shorter window."
            )
        chosen.append(np.isin(np.arange(len(windows)), rng.permutation(len(windows))[: min(n, len(windows) - 1)]))
    kept = np.concatenate(chosen)
    length = data.valid.shape[1]
    shared = [_shared(windows, mine, length) for windows, mine in zip(cuts, chosen, strict=True)]
    scored = np.asarray(data.scored) & ~np.concatenate(shared)[..., None]
    training = data._replace(scored=jnp.asarray(scored)).take(jnp.asarray(np.flatnonzero(~kept)))
    return Split(training, data.take(jnp.asarray(np.flatnonzero(kept))))


def _shared(windows: Windows, chosen: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Frames of each window that lie in a chosen one, too, (window, length)."""
    frames = np.zeros(windows.n_frames, bool)
    for a, b in windows.bounds[chosen]:
        frames[a:b] = True
    return np.pad(windows.cut(frames), ((0, 0), (0, length - windows.length)))


def fingerprint(problem: Problem) -> str:
    """Return a digest of the data and of the first weights that a training rests on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((problem.split, problem.weights)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]
