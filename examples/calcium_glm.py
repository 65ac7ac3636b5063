"""A Poisson GLM of running speed and a stimulus, fitted straight to fluorescence; prints and draws the weights.

The GLM is ordinary JAX and Optax; only its likelihood is ours: spikes are summed out, not deconvolved first.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from nwb_calcium_lvm.observations import calcium

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", default="calcium_glm.png", help="where the picture goes")

# Behaviour at 15 Hz for eight minutes, and 15 neurons tuned to it: log expected spikes per frame = X w.
T, N, rng = 7200, 15, np.random.default_rng(0)
speed, stimulus = np.convolve(rng.normal(size=T), np.ones(30) / np.sqrt(30), "same"), (np.arange(T) // 45) % 4 == 0
X = jnp.asarray(np.column_stack([np.ones(T), speed, stimulus]), jnp.float32)
true_weights = np.vstack([np.full(N, -2.5), rng.normal(0, 0.6, N), rng.normal(0, 1.0, N)])
truth = calcium.CalciumParams(np.full((N, 1), 0.92), rng.uniform(0.15, 0.3, N), np.full(N, 0.05**2), np.full(N, 0.004))
dff = calcium.sample(jax.random.key(0), X @ jnp.asarray(true_weights, jnp.float32), truth).y

# Everything is fitted, from a rough start: weights, decay, spike size, noise and intercept of every neuron.
rough = calcium.CalciumParams(jnp.full((N, 1), 0.85), jnp.full(N, 0.2), jnp.full(N, 0.01), jnp.zeros(N))
model = {"weights": jnp.zeros((3, N)).at[0].set(-2.0), "calcium": calcium.unconstrain(rough)}
optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 150))


def loss(model):
    ll = calcium.log_likelihood(dff, X @ model["weights"], calcium.constrain(model["calcium"]))
    return -jnp.mean(jnp.sum(ll, axis=1)) / N


@jax.jit
def step(model, state):
    value, gradient = jax.value_and_grad(loss)(model)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(model, updates), state, value


state = optimiser.init(model)
for i in range(150):
    model, state, value = step(model, state)
    if i % 50 == 49:
        print(f"step {i + 1:3d}  negative log-likelihood {value:8.4f} nats per neuron and frame")

figure = Figure(figsize=(9, 3), layout="constrained")
rows = zip(("bias", "speed", "stimulus"), model["weights"], true_weights, figure.subplots(1, 3), strict=True)
for name, found, true, ax in rows:
    error = np.sqrt(np.mean((found - true) ** 2))
    print(f"{name:8s}  true {true.mean():6.2f} ± {true.std():.2f}  rms error {error:.3f}")
    ax.axline((true.mean(), true.mean()), slope=1, color="0.7")
    ax.plot(true, found, "o")
    ax.set(title=name, xlabel="true weight", ylabel="weight from fluorescence")
figure.savefig(parser.parse_args().out)
