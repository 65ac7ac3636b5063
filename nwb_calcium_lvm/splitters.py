"""Cross-validation over time, as recordings ask for it: test blocks with a gap around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator

from nwb_calcium_lvm.exceptions import DataError


class BlockedTimeSplit(BaseCrossValidator):
    """Leave out blocks of time in turn, and a gap on both sides of each.

    Frames next to each other share calcium and latents, so that a split at random tests what was learned by heart.

    Parameters
    ----------
    n_splits : int, default 5
        Blocks, of one length to a frame.
    gap : int, default 0
        Frames before and after the test block that are left out of the training; a few decay times of calcium.

    Examples
    --------
    Frames on both sides of a test block are not neighbours. The models are told by ``groups``, which scikit-learn's
    routing takes to ``fit`` and ``score``:

    >>> import numpy as np
    >>> import sklearn
    >>> from sklearn.model_selection import cross_val_score
    >>> from nwb_calcium_lvm import CalciumHMM
    >>> X = np.random.default_rng(0).normal(size=(120, 3))
    >>> blocks = BlockedTimeSplit(3, gap=5)
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     hmm = CalciumHMM(2, observation="gaussian", n_init=1, random_state=0)
    ...     scores = cross_val_score(hmm, X, cv=blocks, params={"groups": blocks.block_of(X)})
    >>> scores.shape
    (3,)
    """

    def __init__(self, n_splits: int = 5, gap: int = 0):
        self.n_splits = n_splits
        self.gap = gap

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of blocks."""
        return self.n_splits

    def block_of(self, X: Any) -> NDArray[np.integer]:
        """Return the block of each frame, (time,): the ``groups`` that keep a model from running across a cut."""
        n_frames = len(X)
        if not isinstance(self.n_splits, (int, np.integer)) or self.n_splits < 2:
            raise DataError(f"n_splits={self.n_splits!r}. Expected a whole number, 2 or more.")
        if not isinstance(self.gap, (int, np.integer)) or self.gap < 0:
            raise DataError(f"gap={self.gap!r}. Expected a whole number of frames, 0 or more.")
        if n_frames < self.n_splits:
            raise DataError(f"X has {n_frames} frames, fewer than n_splits={self.n_splits}.")
        return np.arange(n_frames) * self.n_splits // n_frames

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
        """Yield the frames to learn from and those to test on."""
        block = self.block_of(X)
        frames = np.arange(len(block))
        for i in range(self.n_splits):
            test = np.flatnonzero(block == i)
            training = frames[(frames < test[0] - self.gap) | (frames > test[-1] + self.gap)]
            if len(training) == 0:
                raise DataError(f"gap={self.gap} leaves no frame to learn from beside a block of {len(test)} frames.")
            yield training, test
