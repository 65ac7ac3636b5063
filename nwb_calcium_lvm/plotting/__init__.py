"""Pictures of recordings and of what was inferred from them.

Every function takes arrays or an :class:`~nwb_calcium_lvm.InferenceResult`, draws into ``ax`` or a figure of its own,
and returns it. None shows or closes anything or touches the current pyplot figure: save with
``ax.figure.savefig(...)``, or pass ``ax=plt.gca()`` to draw where pyplot is.
"""

from nwb_calcium_lvm.plotting._dynamics import dynamics_overview, inferred_inputs, rates_in_trials, training_curves
from nwb_calcium_lvm.plotting._events import mean_around_event, states_around_event, states_by_trial
from nwb_calcium_lvm.plotting._latents import (
    latent_overview,
    latent_trajectories,
    latents,
    loadings,
    rates_against_traces,
)
from nwb_calcium_lvm.plotting._model import (
    dwell_times,
    likelihood_curve,
    model_selection,
    rates_by_state,
    transition_matrix,
)
from nwb_calcium_lvm.plotting._overview import overview
from nwb_calcium_lvm.plotting._quality import distribution, noise_levels
from nwb_calcium_lvm.plotting._spikes import frequency_response, layer_outputs, spike_rates
from nwb_calcium_lvm.plotting._style import state_colors
from nwb_calcium_lvm.plotting._time import state_probabilities, states, traces

__all__ = [
    "distribution",
    "dwell_times",
    "dynamics_overview",
    "frequency_response",
    "inferred_inputs",
    "latent_overview",
    "latent_trajectories",
    "latents",
    "layer_outputs",
    "likelihood_curve",
    "loadings",
    "mean_around_event",
    "model_selection",
    "noise_levels",
    "overview",
    "rates_against_traces",
    "rates_by_state",
    "rates_in_trials",
    "spike_rates",
    "state_colors",
    "state_probabilities",
    "states",
    "states_around_event",
    "states_by_trial",
    "traces",
    "training_curves",
    "transition_matrix",
]
