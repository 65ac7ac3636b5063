"""Observation models: the density of a trace given its past and the expected spikes per frame.

Each is a module with the functions of `ObservationModel`: `log_likelihood`, `expected_counts`, `sample`, `constrain`,
`unconstrain`, and a NamedTuple of parameters. They are pure JAX and know nothing of files or estimators, so that they
can be plugged into any JAX model of rates.
"""

from nwb_calcium_lvm.observations import ar_gaussian, autoregression, calcium, calcium_noisy, gaussian, poisson
from nwb_calcium_lvm.observations.protocol import ObservationModel, Sample

MODELS: dict[str, ObservationModel] = {
    "ar_gaussian": ar_gaussian,
    "calcium": calcium,
    "calcium_noisy": calcium_noisy,
    "gaussian": gaussian,
    "poisson": poisson,
}

DESCRIPTIONS = {
    "ar_gaussian": "autoregressive Gaussian traces",
    "calcium": "calcium fluorescence with unseen Poisson spikes",
    "calcium_noisy": "calcium fluorescence with unseen Poisson spikes and measurement noise",
    "gaussian": "Gaussian traces",
    "poisson": "Poisson spike counts",
}
"""What each model takes the data for, as results say it."""

__all__ = [
    "DESCRIPTIONS",
    "MODELS",
    "ObservationModel",
    "Sample",
    "ar_gaussian",
    "autoregression",
    "calcium",
    "calcium_noisy",
    "gaussian",
    "get",
    "poisson",
]


def get(name: str) -> ObservationModel:
    """Return the observation model of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    if name not in MODELS:
        raise ValueError(f"There is no observation model called {name!r}. Known: {', '.join(sorted(MODELS))}.")
    return MODELS[name]
