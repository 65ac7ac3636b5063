"""Search for hyper-parameters: many networks side by side on one device, compiled once for each number of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from jax import Array
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state
from tqdm.auto import tqdm

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads import checks, fitting, learned, sessions
from nwb_calcium_lvm.lfads.network import LFADSNetwork
from nwb_calcium_lvm.lfads.objective import Hyper, Model, Weights
from nwb_calcium_lvm.lfads.training import Recipe, Split, State, Trained, begin, epoch
from nwb_calcium_lvm.recording import Recording

METHODS = ("halving", "population")
SPACE: dict[str, tuple[float, float]] = {
    "learning_rate": (2e-3, 2e-2),
    "dropout": (0.0, 0.3),
    "coordinated_dropout": (0.0, 0.5),
    "l2": (1e-4, 1e-1),
    "kl_scale": (0.3, 1.0),
}
_LOGARITHMIC = ("learning_rate", "l2")  # drawn and changed by factors
_KEPT = 4  # one in so many goes on to the next rung
_CHANGES = (0.8, 1.25)  # of a hyper-parameter taken over from a better member
_QUARTER = 4  # of a population: the worst take over from the best


class Search(NamedTuple):
    """What a search has found.

    Attributes
    ----------
    best : CalciumLFADS
        Fitted, with the hyper-parameters of the best member.
    table : DataFrame
        A row for each member: hyper-parameters, epochs trained, held-out bound (nats per sample of standardised
        traces), best first.
    """

    best: Any
    table: pd.DataFrame


def search(
    estimator: Any,
    X: Any,
    space: Mapping[str, tuple[float, float]] | None = None,
    *,
    method: str = "halving",
    n_members: int = 16,
    interval: int = 25,
    groups: Any = None,
    conditions: Any = None,
    random_state: Any = None,
    verbose: int = 0,
) -> Search:
    """Search for hyper-parameters of a :class:`CalciumLFADS` by the bound on windows left out.

    All members train side by side on the same windows, as one compiled program.

    Parameters
    ----------
    estimator : CalciumLFADS
        Gives everything that is not searched for, ``max_epochs`` among it. It is not changed.
    X, groups, conditions
        As in :meth:`CalciumLFADS.fit`.
    space : mapping of str to (float, float), optional
        Range of each hyper-parameter, of those in :data:`SPACE` (the default). Learning rate and l2 are drawn
        uniformly in their logarithms.
    method : {"halving", "population"}
        ``"halving"``: random search; after ``interval`` epochs the best quarter goes on for four times as long, and so
        on. ``"population"``: every ``interval`` epochs the worst quarter takes over weights and hyper-parameters of the
        best, the latter changed by a fifth or a quarter (population-based training).
    n_members : int
        Networks to begin with.
    interval : int
        Epochs from one choice to the next, after those of the ramp.
    random_state : int, RandomState or None
        Seed.
    verbose : int
        1 shows a progress bar.

    Returns
    -------
    Search

    Raises
    ------
    DataError
        As :meth:`CalciumLFADS.fit`, and where all members left the finite numbers.
    """
    checks.check_parameters(estimator)
    checks.positive("n_members", n_members, 2)
    checks.positive("interval", interval)
    if method not in METHODS:
        raise ValueError(f"method={method!r}; expected one of {', '.join(METHODS)}.")
    ranges = _ranges(SPACE if space is None else space)
    rng = check_random_state(random_state)
    found = clone(estimator)
    given = sessions.to_fit(found, X, groups)
    rate = given[0].recording.sampling_rate or estimator.sampling_rate
    seed = int(rng.randint(2**31 - 1))
    problem = fitting.prepare([t.recording for t in given], estimator.settings(rate), seed, conditions)
    # What the data say of the first weights is the same for all members.
    given_weights = ("log_rate",) if conditions is None else ("log_rate", "read_in", "read_out")
    members = _members(problem, ranges, n_members, rng, given_weights)
    with tqdm(disable=not verbose, desc="Search", unit="epoch") as bar:
        run = _halving if method == "halving" else _population
        done = run(members, problem, interval, ranges, rng, bar)
    return _finish(found, problem, done, [t.recording for t in given], seed)


class Members(NamedTuple):
    """Networks side by side; every array has a first axis (member,).

    Attributes
    ----------
    state : State
    hyper : Hyper
    keys : array of JAX random keys
    number : ndarray of int
        Which member each was at the start.
    histories : list of list of (float, float)
        Training loss and held-out bound of each epoch.
    """

    state: State
    hyper: Hyper
    keys: Array
    number: NDArray[np.integer]
    histories: list[list[tuple[float, float]]]

    def take(self, index: NDArray[np.integer]) -> Members:
        """Return the members of that index."""
        state, hyper, keys = jax.tree.map(lambda a: a[jnp.asarray(index)], self[:3])
        return Members(state, hyper, keys, self.number[index], [list(self.histories[i]) for i in index])

    @property
    def scores(self) -> NDArray[np.floating]:
        """Highest held-out bound of each so far; minus infinity for those that left the finite numbers."""
        best = np.asarray(self.state.best_score, float)
        lost = [not np.isfinite(h).all() for h in self.histories]
        return np.where(lost, -np.inf, best)


def _ranges(space: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    for name, limits in space.items():
        if name not in SPACE:
            raise ValueError(f"space has {name!r}; expected some of {', '.join(SPACE)}.")
        low, high = (float(x) for x in limits)
        if not 0.0 <= low <= high or (name in _LOGARITHMIC and low == 0.0):
            raise ValueError(f"space[{name!r}] = {tuple(limits)!r}; expected a smallest and a largest value.")
    return {name: (float(low), float(high)) for name, (low, high) in space.items()}


def _members(
    problem: fitting.Problem, ranges: dict[str, tuple[float, float]], n: int, rng: Any, kept: tuple[str, ...]
) -> Members:
    """Draw first weights, but for those ``kept``, and hyper-parameters; the first member keeps the estimator's own."""
    shape = nnx.merge(problem.model.graph, problem.weights.network).shape
    networks = []
    for seed in rng.randint(2**31 - 1, size=n):
        network = nnx.state(LFADSNetwork(shape, nnx.Rngs(int(seed))), nnx.Param)
        for name in kept:
            network[name][...] = problem.weights.network[name][...]
        networks.append(network)
    weights = Weights(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks),
        jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), problem.weights.observation),
    )
    own = problem.hyper._asdict()
    drawn = {name: np.full(n, float(value), np.float32) for name, value in own.items()}
    for name, (low, high) in ranges.items():
        uniform = rng.uniform(size=n - 1)
        values = low * (high / low) ** uniform if name in _LOGARITHMIC else low + (high - low) * uniform
        for field in _fields(name):
            drawn[field][1:] = values
    hyper = Hyper(**{k: jnp.asarray(v) for k, v in drawn.items()})
    keys = jax.random.split(jax.random.key(int(rng.randint(2**31 - 1))), n)
    return Members(jax.vmap(begin)(weights), hyper, keys, np.arange(n), [[] for _ in range(n)])


def _fields(name: str) -> tuple[str, ...]:
    """Fields of Hyper that an argument of the estimator stands for."""
    return {"kl_scale": ("kl_initial", "kl_inputs"), "coordinated_dropout": ("hidden",)}.get(name, (name,))


@partial(jax.jit, static_argnames=("model", "recipe"))
def _epochs(state: State, split: Split, hyper: Hyper, number: Array, keys: Array, model: Model, recipe: Recipe):
    return jax.vmap(lambda s, h, k: epoch(s, split, h, number, k, model, recipe))(state, hyper, keys)


def _run(members: Members, problem: fitting.Problem, first: int, last: int, bar: Any) -> Members:
    """Train all members from one epoch to another."""
    for number in range(first, last):
        state, scores = _epochs(
            members.state,
            problem.split,
            members.hyper,
            jnp.asarray(number),
            members.keys,
            problem.model,
            problem.recipe,
        )
        for history, (loss, score) in zip(members.histories, np.asarray(scores), strict=True):
            history.append((float(loss), float(score)))
        members = members._replace(state=state)
        bar.update()
        bar.set_postfix(members=len(members.number), held_out=f"{members.scores.max():.4f}")
    return members


def _halving(members: Members, problem: fitting.Problem, interval: int, ranges: Any, rng: Any, bar: Any) -> Members:
    del ranges, rng
    done, total = 0, problem.recipe.epochs
    rung = problem.recipe.ramp + interval
    left: list[Members] = []
    while done < total:
        until = total if len(members.number) == 1 else min(rung, total)
        members = _run(members, problem, done, until, bar)
        done, rung = until, until * _KEPT
        if done < total:
            order = np.argsort(-members.scores)
            n = max(1, len(order) // _KEPT)
            left.append(members.take(order[n:]))
            members = members.take(order[:n])
    return _join([members, *left])


def _population(members: Members, problem: fitting.Problem, interval: int, ranges: Any, rng: Any, bar: Any) -> Members:
    done, total = 0, problem.recipe.epochs
    while done < total:
        until = min(total, problem.recipe.ramp + interval if done == 0 else done + interval)
        members = _run(members, problem, done, until, bar)
        done = until
        if done < total:
            members = _exploit(members, ranges, rng)
    return members


def _exploit(members: Members, ranges: dict[str, tuple[float, float]], rng: Any) -> Members:
    """The worst quarter becomes the best, with hyper-parameters a little changed; random keys stay their own."""
    order = np.argsort(-members.scores)
    n = max(1, len(order) // _QUARTER)
    source = np.arange(len(order))
    source[order[-n:]] = order[:n]
    taken = members.take(source)
    hyper = {k: np.array(v) for k, v in taken.hyper._asdict().items()}
    for i in order[-n:]:
        for name, (low, high) in ranges.items():
            change = rng.choice(_CHANGES)
            for field in _fields(name):
                hyper[field][i] = np.clip(hyper[field][i] * change, low, high)
    changed = Hyper(**{k: jnp.asarray(v) for k, v in hyper.items()})
    return taken._replace(hyper=changed, keys=members.keys, number=members.number)


def _join(parts: list[Members]) -> Members:
    state, hyper, keys = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[p[:3] for p in parts])
    histories = [history for p in parts for history in p.histories]
    return Members(state, hyper, keys, np.concatenate([p.number for p in parts]), histories)


def _finish(
    estimator: Any, problem: fitting.Problem, members: Members, recordings: list[Recording], seed: int
) -> Search:
    order = np.argsort(-members.scores, kind="stable")
    if not np.isfinite(members.scores[order[0]]):
        raise DataError("All members left the finite numbers. Lower the learning rates, or look for artefacts in X.")
    columns = {name: np.asarray(getattr(members.hyper, _fields(name)[0]), float)[order] for name in SPACE}
    table = pd.DataFrame(
        {"member": members.number[order], **columns}
        | {"epochs": [len(members.histories[i]) for i in order], "held_out_bound": members.scores[order]}
    )
    best = order[0]
    weights = jax.tree.map(lambda a: a[best], members.state.best)
    estimator.set_params(**{name: float(values[0]) for name, values in columns.items()})
    history = np.array(members.histories[best])
    stopped = int(history[:, 1].argmax()) < len(history) - estimator.patience
    learned.store(estimator, recordings, seed, problem, Trained(weights, float(members.scores[best]), history, stopped))
    return Search(estimator, table)
