"""Blocks of time left out in turn."""

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import cross_val_score

from nwb_calcium_lvm import CalciumHMM
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.splitters import BlockedTimeSplit

X = np.random.default_rng(0).normal(size=(100, 3)).cumsum(axis=0)


def test_blocks_cover_time_once_and_the_gap_is_in_neither():
    splits = list(BlockedTimeSplit(4, gap=3).split(X))
    np.testing.assert_array_equal(np.concatenate([test for _, test in splits]), np.arange(100))
    for training, test in splits:
        assert (np.diff(test) == 1).all()
        distance = np.abs(training[:, None] - test).min(axis=1)
        assert distance.min() == 4
        assert len(training) == ((np.arange(100) < test[0] - 3) | (np.arange(100) > test[-1] + 3)).sum()


def test_frames_that_do_not_divide_are_spread():
    lengths = [len(test) for _, test in BlockedTimeSplit(7).split(X)]
    assert sum(lengths) == 100
    assert max(lengths) - min(lengths) <= 1


def test_models_are_told_where_time_was_cut():
    blocks = BlockedTimeSplit(2, gap=2)
    model = CalciumHMM(2, observation="ar_gaussian", n_init=1, max_iter=5, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        found = cross_val_score(model, X, cv=blocks, params={"groups": blocks.block_of(X)})
    for score, (training, test) in zip(found, blocks.split(X), strict=True):
        groups = blocks.block_of(X)
        by_hand = model.fit(X[training], groups=groups[training]).score(X[test], groups=groups[test])
        assert score == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_splits": 1}, "2 or more"), ({"gap": -1}, "0 or more"), ({"n_splits": 101}, "fewer than n_splits=101"),
     ({"n_splits": 2, "gap": 60}, "no frame to learn from")],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(options, message):
    with pytest.raises(DataError, match=message):
        list(BlockedTimeSplit(**options).split(X))
