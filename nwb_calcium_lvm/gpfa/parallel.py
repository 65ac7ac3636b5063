"""The filter and the smoother of a chunk with all frames at once: O(log T) steps one after another instead of O(T).

More arithmetic (products and solves of S x S matrices, S the numbers of all latents' states, at every level), which
devices that do thousands of things at once have to spare, and a processor has not.

The filter: each frame is a function from the state before to the state after and the evidence on the state before, in
five arrays, and two such functions in a row are one again (Sarkka and Garcia-Fernandez 2021, here with sites in
information form). The way back is linear in what it carries, so that two steps in a row are one matrix and two sums.
Neither inverts the noise of a frame.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nwb_calcium_lvm.gpfa.frames import Adjoint, Sites, State, Step, predict, see, slopes, smoothed, through, update
from nwb_calcium_lvm.gpfa.kernels import Transitions


class _Element(NamedTuple):
    """x_after | x_before ~ N(A x_before + b, C); evidence on x_before: eta . x - x' J x / 2."""

    a: Array
    b: Array
    c: Array
    eta: Array
    j: Array


def forward(moves: Transitions, state: State, inputs: tuple) -> tuple[State, tuple[Step, Array]]:
    """As the filter of :mod:`.kalman`."""
    kinds, sites, factors = inputs
    p, n = state.mean.shape
    size = p * n
    matrix, noise = moves.matrix[kinds], moves.noise[kinds]
    # The first frame starts from a state that is known: a function that does not look at what was before.
    first = update(see(predict(matrix[0], noise[0], state), jax.tree.map(lambda x: x[0], sites), factors[0])[0])
    nothing = jnp.zeros((size, size))
    known = _Element(nothing, first.mean.reshape(-1), first.covariance.reshape(size, size), jnp.zeros(size), nothing)
    rests = State(jnp.zeros((p, n)), jnp.zeros((p, n, p, n)))

    def element(matrix: Array, noise: Array, site: Sites, factor: Array) -> _Element:
        fresh, _ = see(predict(matrix, noise, rests), site, factor)  # from a state that is 0 for sure
        after, inner, wide = update(fresh), through(fresh), _wide(matrix)
        return _Element(
            inner @ wide,
            after.mean.reshape(-1),
            after.covariance.reshape(size, size),
            wide[:n].T @ fresh.score,
            wide[:n].T @ fresh.gain @ wide[:n],
        )

    elements = jax.vmap(element)(matrix, noise, sites, factors)
    elements = jax.tree.map(lambda all_, one: all_.at[0].set(one), elements, known)
    done = lax.associative_scan(jax.vmap(_joined), elements)
    after = State(done.b.reshape(-1, p, n), done.c.reshape(-1, p, n, p, n))
    before = jax.tree.map(lambda start, x: jnp.concatenate([start[None], x[:-1]]), state, after)
    steps, values = jax.vmap(lambda m, q, s, *rest: see(predict(m, q, s), *rest))(matrix, noise, before, sites, factors)
    return jax.tree.map(lambda x: x[-1], after), (steps, values)


def backward(moves: Transitions, adjoint: Adjoint, late: Array, steps: Step) -> tuple[Adjoint, tuple]:
    """As the smoother of :mod:`.kalman`."""
    p, n = adjoint.vector.shape
    size = p * n
    matrix = moves.matrix[late]
    back = jax.vmap(lambda m, s: _wide(m) @ through(s))(matrix, steps)
    vector = jnp.pad(-steps.score, ((0, 0), (0, size - n)))
    middle = jnp.pad(steps.gain, ((0, 0), (0, size - n), (0, size - n)))
    back, vector, middle = lax.associative_scan(jax.vmap(_further_back), (back, vector, middle), reverse=True)
    at_end = adjoint.vector.reshape(-1), adjoint.matrix.reshape(size, size)
    vector = jnp.einsum("tij,i->tj", back, at_end[0]) + vector
    middle = back.mT @ at_end[1] @ back + middle
    own = Adjoint(vector.reshape(-1, p, n), 0.5 * (middle + middle.mT).reshape(-1, p, n, p, n))
    after = jax.tree.map(lambda x, end: jnp.concatenate([x[1:], end[None]]), own, adjoint)
    found = jax.vmap(smoothed)(steps, own)
    return jax.tree.map(lambda x: x[0], own), (*found, jax.vmap(slopes)(steps, matrix, after))


def _joined(early: _Element, late: _Element) -> _Element:
    """First ``early``, then ``late``."""
    n = len(early.b)
    # (I + C J)^-1 applied to all that needs it; its transpose is (I + J C)^-1, as C and J are symmetric.
    sides = jnp.concatenate([early.a, (early.b + early.c @ late.eta)[:, None], early.c], axis=1)
    solved = jnp.linalg.solve(jnp.eye(n) + early.c @ late.j, sides)
    a, b, c = solved[:, :n], solved[:, n], solved[:, n + 1 :]
    covariance = late.a @ c @ late.a.T + late.c
    precision = a.T @ late.j @ early.a + early.j
    return _Element(
        late.a @ a,
        late.a @ b + late.b,
        0.5 * (covariance + covariance.T),
        a.T @ (late.eta - late.j @ early.b) + early.eta,
        0.5 * (precision + precision.T),
    )


def _further_back(late: tuple[Array, Array, Array], early: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """First back through ``late``, then through ``early``."""
    x, b, k = late
    y, c, m = early
    return x @ y, y.T @ b + c, y.T @ k @ y + m


def _wide(matrix: Array) -> Array:
    """Transitions of single latents (p, p, D) as one matrix (S, S)."""
    p, _, n = matrix.shape
    return (matrix.transpose(0, 2, 1)[..., None] * jnp.eye(n)[None, :, None]).reshape(p * n, p * n)
