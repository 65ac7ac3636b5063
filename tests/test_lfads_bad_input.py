"""What CalciumLFADS refuses, and what it says then."""

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumLFADS, Recording
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads import search


@pytest.fixture(scope="module")
def traces():
    return np.random.default_rng(0).normal(size=(6, 20, 4))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[("n_factors", value, "a whole number of at least 1") for value in (0, 2.0, "3", None, True)],
        *[(name, 0, "a whole number of at least 1") for name in ("n_generator", "max_epochs", "batch_size", "n_draws")],
        ("n_controller_inputs", -1, "a whole number of at least 0"),
        *[(name, 1.0, "a number from 0 to below 1") for name in ("dropout", "coordinated_dropout", "validation_share")],
        *[(name, -1.0, "a number from 0") for name in ("learning_rate", "l2", "kl_scale", "overlap")],
        ("observation", "fluorescence", "one of ar_gaussian, calcium"),
        ("precision", "float64", "one of auto, float32"),
        ("window", 0.0, "s, above 0, or None"),
        ("sampling_rate", -30.0, "frames per second, above 0"),
    ],
)
def test_constructor_arguments(traces, name, value, expected):
    model = CalciumLFADS(**{name: value})
    with pytest.raises(ValueError, match=f"{name}=.*expected {expected}"):
        model.fit(traces)
    assert not hasattr(model, "loadings_")


def test_orders_that_the_filter_does_not_know(traces):
    with pytest.raises(ValueError, match="ar_order=3 with observation='calcium_noisy'; expected 1 or 2"):
        CalciumLFADS(observation="calcium_noisy", ar_order=3).fit(traces)


def test_too_few_windows_or_too_short_ones(traces):
    with pytest.raises(DataError, match=r"20 frames makes 1 window\. Expected at least 2"):
        CalciumLFADS().fit(traces[:1])
    with pytest.raises(DataError, match="longest window has 2 frames; expected at least 3"):
        CalciumLFADS().fit(traces[:, :2])
    with pytest.raises(DataError, match="longest window has 1 frames"):
        CalciumLFADS(window=1.0).fit(traces)


def test_traces_that_are_none(traces):
    with pytest.raises(DataError, match="takes spike counts, but X holds"):
        CalciumLFADS(observation="poisson").fit(traces)
    silent = traces.copy()
    silent[..., 2] = 0.0
    with pytest.raises(DataError, match="1 of 4 ROIs are constant or never observed: 2"):
        CalciumLFADS().fit(silent)
    missing = traces.copy()
    missing[1, 3, 2] = np.nan
    with pytest.raises(DataError, match="ROI 2"):
        CalciumLFADS().fit(missing)


def test_sessions_at_different_rates(traces):
    flat = traces.reshape(-1, 4)
    with pytest.raises(DataError, match=r"at \[10.0, 30.0\] Hz, and dynamics are per frame"):
        CalciumLFADS().fit([Recording(flat, sampling_rate=10.0), Recording(flat, sampling_rate=30.0)])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"method": "grid"}, "expected one of halving, population"),
        ({"n_members": 1}, "n_members=1; expected a whole number of at least 2"),
        ({"interval": 0}, "interval=0; expected"),
        ({"space": {"epochs": (1, 2)}}, "space has 'epochs'; expected some of learning_rate"),
        ({"space": {"l2": (0.0, 1.0)}}, r"space\['l2'\] = .*a smallest and a largest value"),
        ({"space": {"dropout": (0.5, 0.1)}}, "a smallest and a largest value"),
    ],
)
def test_searches(traces, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        search(CalciumLFADS(), traces, **arguments)
