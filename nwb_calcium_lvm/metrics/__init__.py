"""How well what was inferred agrees with what is known: states and latent rates, and spikes.

States come in no particular order: match them first (:func:`match_states`, on training data), then compare. Spikes are
scored by the rules of the public benchmarks, see :mod:`nwb_calcium_lvm.metrics.spikes`.
"""

from nwb_calcium_lvm.metrics.spikes import (
    ScoredSegment,
    SpikeScores,
    SpikeScoring,
    SpikeSummary,
    auc,
    match_spikes,
    pearson,
    score_spikes,
    spearman,
    summarise_spikes,
)
from nwb_calcium_lvm.metrics.states import (
    DwellTimes,
    Peak,
    RateAgreement,
    confusion_matrix,
    dwell_times,
    fraction_in_states,
    match_states,
    occupancy,
    one_standard_error_choice,
    peak_and_width,
    rate_correlation,
    standard_error,
    state_accuracy,
    state_correlation,
)

__all__ = [
    "DwellTimes",
    "Peak",
    "RateAgreement",
    "ScoredSegment",
    "SpikeScores",
    "SpikeScoring",
    "SpikeSummary",
    "auc",
    "confusion_matrix",
    "dwell_times",
    "fraction_in_states",
    "match_spikes",
    "match_states",
    "occupancy",
    "one_standard_error_choice",
    "peak_and_width",
    "pearson",
    "rate_correlation",
    "score_spikes",
    "spearman",
    "standard_error",
    "state_accuracy",
    "state_correlation",
    "summarise_spikes",
]
