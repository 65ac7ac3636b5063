"""Hidden Markov models of other libraries, each as one function: fit on the training half, state labels of both halves.

They get what their users would give them: k-means starts and, where a library makes no restarts of its own, the best
of five by training likelihood.
"""

import numpy as np

try:
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import DiagonalGaussianHMM, LinearAutoregressiveHMM, PoissonHMM
except ImportError:
    DiagonalGaussianHMM = None
try:
    from hmmlearn.hmm import GaussianHMM
except ImportError:
    GaussianHMM = None


def available():
    """Return the peers that are installed, by name."""
    peers = {}
    if DiagonalGaussianHMM is not None:
        peers |= {
            "Gaussian (dynamax)": dynamax_gaussian,
            "linear AR (dynamax)": dynamax_linear_ar,
            "Poisson on true spikes (dynamax)": dynamax_poisson,
        }
    if GaussianHMM is not None:
        peers["Gaussian (hmmlearn)"] = hmmlearn_gaussian
    return peers


def hmmlearn_gaussian(train, test, n_states, seed, n_init=5):
    models = [
        GaussianHMM(n_states, covariance_type="diag", n_iter=100, random_state=seed * 100 + i).fit(train)
        for i in range(n_init)
    ]
    best = max(models, key=lambda model: model.score(train))
    return best.predict_proba(train).argmax(1), best.predict_proba(test).argmax(1)


def dynamax_gaussian(train, test, n_states, seed, n_init=5):
    return _dynamax(DiagonalGaussianHMM(n_states, train.shape[1]), train, test, seed, n_init, method="kmeans")


def dynamax_poisson(train, test, n_states, seed, n_init=5):
    # Its Poisson model has no start from data, only random rates: at the scale of these spikes, or it finds nothing.
    return _dynamax(PoissonHMM(n_states, train.shape[1]), train, test, seed, n_init, rates_near=train.mean(0))


def dynamax_linear_ar(train, test, n_states, seed, n_init=5):
    hmm = LinearAutoregressiveHMM(n_states, train.shape[1], num_lags=1)
    return _dynamax(hmm, train, test, seed, n_init, method="kmeans")


def _dynamax(hmm, train, test, seed, n_init, rates_near=None, **start):
    train, test = jnp.asarray(train), jnp.asarray(test)
    best, best_likelihood = None, -np.inf
    for i in range(n_init):
        key = jax.random.key(seed * 100 + i)
        data = {"emissions": train} if start else {}
        params, props = hmm.initialize(key=key, **data, **start)
        if rates_near is not None:
            scale = jax.random.gamma(key, 2.0, (hmm.num_states, hmm.emission_dim)) / 2.0
            params = params._replace(emissions=params.emissions._replace(rates=scale * (rates_near + 1e-3)))
        fitted, history = hmm.fit_em(params, props, train, num_iters=60, verbose=False, **_inputs(hmm, train))
        if history[-1] > best_likelihood:
            best, best_likelihood = fitted, history[-1]
    if best is None:  # EM ended in NaN from every start
        return np.zeros(len(train), int), np.zeros(len(test), int)
    labels = [np.argmax(hmm.smoother(best, y, **_inputs(hmm, y)).smoothed_probs, 1) for y in (train, test)]
    return labels[0], labels[1]


def _inputs(hmm, emissions):
    return {"inputs": hmm.compute_inputs(emissions)} if hasattr(hmm, "compute_inputs") else {}
