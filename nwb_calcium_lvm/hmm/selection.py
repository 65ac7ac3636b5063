"""How many states: held-out likelihood against their number, for several observation models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import KFold
from tqdm.auto import tqdm

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording


@dataclass(frozen=True)
class Selection:
    """Held-out scores, shape (model, n_states, fold), in nats per sample, and what they choose.

    ``best`` is the number of states with the highest mean; ``chosen`` the smallest one within one standard error of
    it (Breiman et al. 1984): more states are taken only where the data ask for them.
    """

    n_states: tuple[int, ...]
    observations: tuple[str, ...]
    scores: NDArray[np.floating]

    @property
    def mean(self) -> NDArray[np.floating]:
        """Mean over folds, (model, n_states)."""
        return self.scores.mean(axis=2)

    @property
    def standard_error(self) -> NDArray[np.floating]:
        """Standard error over folds, (model, n_states), of the difference to the best number of states.

        Folds differ in how easy they are by much more than numbers of states do, so that only the spread of the
        paired differences tells whether a smaller number is worse.
        """
        best = self.scores[np.arange(len(self.observations)), self.mean.argmax(axis=1)]
        difference = best[:, None, :] - self.scores
        return difference.std(axis=2, ddof=1) / np.sqrt(self.scores.shape[2])

    @property
    def best(self) -> dict[str, int]:
        """Number of states with the highest mean, for each observation model."""
        return {o: self.n_states[i] for o, i in zip(self.observations, self.mean.argmax(axis=1), strict=True)}

    @property
    def chosen(self) -> dict[str, int]:
        """Smallest number of states within one standard error of the best, for each observation model."""
        mean, error = self.mean, self.standard_error
        within = mean >= mean.max(axis=1, keepdims=True) - error
        return {
            o: min(k for k, near in zip(self.n_states, row, strict=True) if near)
            for o, row in zip(self.observations, within, strict=True)
        }

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row per model, number of states and fold."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [self.observations, self.n_states, range(self.scores.shape[2])], names=["observation", "n_states", "fold"]
        )
        return pd.DataFrame({"score": self.scores.ravel()}, index=index).reset_index()


def select_n_states(
    estimator: Any,
    trials: Sequence[Any] | Recording,
    n_states: Iterable[int] = range(2, 10),
    *,
    observations: Sequence[str] | None = None,
    cv: Any = 5,
    verbose: int = 0,
) -> Selection:
    """Cross-validate over trials for each number of states and observation model.

    Parameters
    ----------
    estimator : CalciumHMM
        Everything but ``n_states`` and ``observation`` is taken from it.
    trials : list of arrays (time, roi), array (trial, time, roi), or Recording
        Trials of the same neurons (a Recording's segments); cut a long recording into blocks.
    n_states : iterable of int
        Numbers of states to try.
    observations : sequence of str, optional
        Observation models to try; default the estimator's.
    cv : int or scikit-learn splitter
        Folds over trials.
    verbose : int
        1 shows a progress bar.
    """
    sizes, models = tuple(int(k) for k in n_states), tuple(observations or (estimator.observation,))
    if not sizes:
        raise DataError("n_states is empty; expected numbers of states to try, such as range(2, 10).")
    n_trials = len(trials.segments) if isinstance(trials, Recording) else len(trials)
    splitter = KFold(int(cv)) if isinstance(cv, Integral) else cv
    n_folds = splitter.get_n_splits(np.arange(n_trials))
    if not 2 <= n_folds <= n_trials:
        raise DataError(
            f"There are {n_trials} trials for {n_folds} folds; expected 2 folds or more, and at least as many trials. "
            "Cut a long recording into blocks: np.array_split(dff, 10)."
        )
    scores = np.empty((len(models), len(sizes), n_folds))
    with tqdm(total=scores.size, desc="n_states", unit="fit", disable=not verbose) as bar:
        for i, observation in enumerate(models):
            for j, k in enumerate(sizes):
                for fold, (train, test) in enumerate(splitter.split(np.arange(n_trials))):
                    model: Any = clone(estimator)
                    model.set_params(n_states=k, observation=observation, verbose=0)
                    model.fit(_part(trials, train))
                    scores[i, j, fold] = model.score(_part(trials, test))
                    bar.update()
    return Selection(sizes, models, scores)


def _part(trials: Any, chosen: NDArray[np.integer]) -> Any:
    if isinstance(trials, Recording):
        return trials.isel(time=np.isin(trials.segments.labels(), chosen))
    return [trials[t] for t in chosen]
