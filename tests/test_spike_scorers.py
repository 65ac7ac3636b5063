"""Scores of spike estimators in scikit-learn's own searches, over recordings and groups."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, S2SSpikeEstimator
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.metrics import ScoredSegment, score_spikes
from nwb_calcium_lvm.spikes import DEFAULT, SpikeScorer
from nwb_calcium_lvm.spikes.base import METRICS

GROUPS = ["a", "a", "b", "b", "c", "c"]


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    counts = [rng.poisson(0.05, (900, 1)) for _ in GROUPS]
    decay = np.exp(-np.arange(60) / 15)
    traces = [np.convolve(c[:, 0], decay)[:900, None] + 0.05 * rng.normal(size=(900, 1)) for c in counts]
    return [Recording(x, sampling_rate=30.0) for x in traces], counts


def test_every_metric_is_a_scorer(truth):
    X, y = truth
    oasis = OASISSpikeEstimator(spike_amplitude=1.0).fit(X[0])
    scorers = {m: SpikeScorer(m) for m in METRICS}
    found = cross_validate(oasis, X, y, scoring=scorers, cv=GroupKFold(3), groups=GROUPS)
    for name in METRICS:
        alone = cross_val_score(oasis, X, y, scoring=SpikeScorer(name), cv=GroupKFold(3), groups=GROUPS)
        np.testing.assert_array_equal(found[f"test_{name}"], alone)
    # What a scorer says is the mean over neurons of what the metrics module says of each.
    times = [np.repeat(np.arange(900) / 30, c[:, 0]) for c in y]
    rates = [oasis.transform(r)[:, 0] for r in X]
    each = [score_spikes([ScoredSegment(r, 30.0, 0.0, 899 / 30, t)]) for r, t in zip(rates, times, strict=True)]
    expected = np.mean([s.spearman for s in each])
    assert SpikeScorer("spearman")(oasis, X, y) == pytest.approx(
        expected, abs=1e-2
    )  # spikes stand evenly within frames there
    assert len({scorer(oasis, X, y) for scorer in scorers.values()}) == 4


def test_a_search_over_groups_finds_the_decay(truth):
    X, y = truth
    for metric in ("auc", "spearman", "pearson"):
        search = GridSearchCV(
            OASISSpikeEstimator(penalty=0.0),
            {"decay_time": [0.05, 0.5, 5.0]},
            scoring=SpikeScorer(metric),
            cv=GroupKFold(3),
        )
        assert search.fit(X, y, groups=GROUPS).best_params_ == {"decay_time": 0.5}


def test_groups_reach_the_fit_by_routing(truth, monkeypatch):
    X, y = truth
    tiny = DEFAULT.changed(channels=2, dilations=(1,), steps=2, check_every=2, n_members=1, batch_size=2, seconds=8.0)
    seen = []
    fit = S2SSpikeEstimator.fit

    def spying(self, X, y=None, *, groups=None):
        seen.append(list(groups))
        return fit(self, X, y, groups=groups)

    monkeypatch.setattr(S2SSpikeEstimator, "fit", spying)
    with sklearn.config_context(enable_metadata_routing=True):
        found = cross_val_score(
            S2SSpikeEstimator(config=tiny, random_state=0),
            X,
            y,
            scoring=SpikeScorer("auc"),
            cv=GroupKFold(3),
            params={"groups": GROUPS},
        )
    assert len(found) == 3
    assert np.isfinite(found).all()
    assert sorted("".join(sorted(set(groups))) for groups in seen) == ["ab", "ac", "bc"]


def test_scorers_survive_other_processes_and_refuse_other_metrics(truth):
    scorer = pickle.loads(pickle.dumps(SpikeScorer("auc")))
    assert scorer == SpikeScorer("auc")
    with pytest.raises(DataError, match="metric='r2' is not known"):
        SpikeScorer("r2")
