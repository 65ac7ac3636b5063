"""CalciumLFADS against scikit-learn's own checks."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwb_calcium_lvm import CalciumLFADS

_NEIGHBOURS = "a frame is judged by its neighbours in time too, so that order and context matter"

TINY = CalciumLFADS(
    n_factors=1,
    n_generator=2,
    n_controller_inputs=0,
    n_encoder=2,
    n_controller=1,
    n_initial=1,
    max_epochs=1,
    n_draws=2,
    window=8,
)


@pytest.mark.slow
@pytest.mark.thorough  # three minutes, all of it compilation: every check has a shape of its own
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [TINY],
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": _NEIGHBOURS,
        "check_methods_subset_invariance": _NEIGHBOURS,
    },
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
