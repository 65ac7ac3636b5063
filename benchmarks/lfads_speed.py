"""Seconds per epoch of LFADS: one compiled scan over batches, a compiled step per batch, and PyTorch.

    python benchmarks/lfads_speed.py

One network (sizes as in lfads_lorenz.py, Poisson observations, so that nothing but the network differs), 256 windows of
100 frames and 30 neurons to learn from and 64 to score after each epoch. ``scan``: CalciumLFADS. ``step``: the same
functions as a plain loop, a jitted step per batch that is cut out on the host, its loss read after each. ``torch``: the
network written as such networks are in PyTorch, nn.GRU for the encoders and nn.GRUCell in a loop over time for
controller and generator, without the validation pass. All in one run, turn by turn.
"""

from __future__ import annotations

import time

import _common
import jax
import jax.numpy as jnp
import numpy as np

from nwb_calcium_lvm import CalciumLFADS, Recording
from nwb_calcium_lvm.lfads import fitting, training
from nwb_calcium_lvm.lfads.objective import loss
from nwb_calcium_lvm.simulate import lorenz_experiment

SIZES = {"n_factors": 4, "n_generator": 64, "n_controller_inputs": 4}


def problem_of(counts):
    estimator = CalciumLFADS(observation="poisson", **SIZES)
    recording = Recording(counts.reshape(-1, counts.shape[-1]).astype(float))
    edges = np.arange(len(counts) + 1) * counts.shape[1]
    trials = Recording(
        recording.dff,
        segments=type(recording.segments)(np.column_stack([edges[:-1], edges[1:]]), np.arange(len(counts))),
    )
    return fitting.prepare([trials], estimator.settings(None), 0)


def scan(problem):
    state = training.begin(problem.weights)
    key = jax.random.key(0)

    def epoch(number):
        nonlocal state
        state, scores = training.epoch(
            state, problem.split, problem.hyper, jnp.asarray(number), key, problem.model, problem.recipe
        )
        return np.asarray(scores)

    return epoch


def step(problem):
    model, hyper, size = problem.model, problem.hyper, problem.recipe.batch_size
    host = jax.tree.map(np.asarray, problem.split.training)
    optimiser = training._optimiser()
    weights, state = problem.weights, optimiser.init(problem.weights)
    ones = jnp.ones(size)
    rng = np.random.default_rng(0)

    @jax.jit
    def one(weights, state, batch, key):
        value, gradient = jax.value_and_grad(loss)(weights, model, batch, ones, hyper, jnp.ones(()), key)
        update, state = optimiser.update(gradient, state)
        return jax.tree.map(lambda w, u: w - hyper.learning_rate * u, weights, update), state, value

    score = jax.jit(lambda w, key: training.held_out(model, w, problem.split.validation, key))

    def epoch(number):
        nonlocal weights, state
        order = rng.permutation(len(host.session))
        values = []
        for i in range(0, len(order) - size + 1, size):
            batch = jax.tree.map(lambda a, i=i: a[order[i : i + size]], host)
            weights, state, value = one(weights, state, batch, jax.random.key(number * 1000 + i))
            values.append(float(value))
        return np.mean(values), float(score(weights, jax.random.key(number)))

    return epoch


def pytorch(problem):
    import torch
    from torch import nn

    torch.manual_seed(0)
    host = jax.tree.map(np.asarray, problem.split.training)
    y, inputs = torch.tensor(host.y), torch.tensor(host.inputs)
    n, n_initial, n_inputs = y.shape[-1], 32, SIZES["n_controller_inputs"]

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.read_in = nn.Linear(n, 48, bias=False)
            self.initial_encoder = nn.GRU(48, 48, batch_first=True, bidirectional=True)
            self.input_encoder = nn.GRU(48, 48, batch_first=True, bidirectional=True)
            self.to_initial, self.to_generator = nn.Linear(96, 2 * n_initial), nn.Linear(n_initial, 64)
            self.controller = nn.GRUCell(96 + 4, 48)
            self.to_inputs = nn.Linear(48, 2 * n_inputs)
            self.generator = nn.GRUCell(n_inputs, 64)
            self.to_factors = nn.Linear(64, 4, bias=False)
            self.read_out = nn.Linear(4, n)

        def forward(self, x):
            x = self.read_in(x)
            _, ends = self.initial_encoder(x)
            mean, log_variance = self.to_initial(torch.cat([ends[0], ends[1]], -1)).chunk(2, -1)
            divergence = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum()
            state = self.to_generator(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            encoded, _ = self.input_encoder(x)
            control = x.new_zeros(len(x), 48)
            factors, out = self.to_factors(state), []
            for t in range(x.shape[1]):
                control = self.controller(torch.cat([encoded[:, t], factors], -1), control).clamp(-5, 5)
                mean, log_variance = self.to_inputs(control).chunk(2, -1)
                drawn = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
                divergence = divergence + 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum()
                state = self.generator(drawn, state).clamp(-5, 5)
                factors = self.to_factors(state)
                out.append(factors)
            return self.read_out(torch.stack(out, 1)), divergence

    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    size = problem.recipe.batch_size

    def epoch(number):
        del number
        order, values = torch.randperm(len(y)), []
        for i in range(0, len(order) - size + 1, size):
            index = order[i : i + size]
            log_rate, divergence = network(inputs[index])
            value = (nn.functional.poisson_nll_loss(log_rate, y[index], reduction="sum") + divergence) / y[
                index
            ].numel()
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimiser.step()
            values.append(value.item())
        return np.mean(values), float("nan")

    return epoch


def main():
    parser = _common.parser(__doc__, 1)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    began = time.perf_counter()
    truth = lorenz_experiment(*((32, 20, 8) if args.quick else (320, 100, 30)), random_state=0)
    problem = problem_of(truth.spikes)
    ways = {"scan": scan(problem), "step": step(problem)}
    try:
        ways["torch"] = pytorch(problem)
    except ImportError:
        print("PyTorch is not installed: left out.")
    found = {name: {"first": 0.0, "wall": [], "cpu": []} for name in ways}
    for number in range(args.epochs):
        for name, epoch in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            epoch(number)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number == 0:  # compiles
                found[name]["first"] = wall
            else:
                found[name]["wall"].append(wall)
                found[name]["cpu"].append(cpu)
    base = np.median(found["scan"]["wall"])
    for name, mine in found.items():
        wall, cpu = np.median(mine["wall"]), np.median(mine["cpu"])
        print(
            f"{name:6s} {wall:.3f} s an epoch ({cpu:.3f} CPU-s), first {mine['first']:.1f} s, {wall / base:.2f} x scan"
        )
    _common.write("lfads_speed", args, began, found)


if __name__ == "__main__":
    main()
