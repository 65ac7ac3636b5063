"""What an observation model is: the contract between the models of fluorescence and the models of rates."""

from typing import Any, NamedTuple, Protocol

from jax import Array
from jax.typing import ArrayLike


class Sample(NamedTuple):
    """A simulated trace and the spike counts behind it.

    Attributes
    ----------
    y : (T, N) array
        Traces.
    counts : (T, N) array
        Spike counts per frame; the rate itself in the models that replace the counts by their mean.
    """

    y: Array
    counts: Array


class ObservationModel(Protocol):
    """The density of traces given the expected spikes per frame, one function for all latent models.

    A module with these functions is an observation model; `nwb_calcium_lvm.observations.get` finds ours by name. All
    functions are pure, differentiable in every floating-point argument, and may be used under ``jit`` and ``vmap``
    (over trials, latent samples or states: ``vmap`` the first two arguments, or `log_rate` alone). They compute in
    the precision of their arguments; for float64 wrap the call in ``with jax.enable_x64(True):``.

    Shapes: `y` (T, N) traces, which carry their own past; `log_rate` (T, N), or anything that broadcasts to it, the
    natural logarithm of the expected spikes **per frame** (the rate in Hz times the frame interval), finite; `mask`
    (T, N) bool, True where observed, None for everything that is not NaN; `starts` (T,) bool, True at the first frame
    of every segment (models without memory ignore it). What stands at masked samples has no influence, NaN included.
    """

    def log_likelihood(
        self, y: ArrayLike, log_rate: ArrayLike, params: Any, mask: ArrayLike | None = None, *, starts: Any = None
    ) -> Array:
        """Return the log density (nats) of every sample given its past, (T, N); zero where there is none.

        The sum over frames and neurons is the log density of the traces given the rates.
        """
        ...

    def expected_counts(
        self, y: ArrayLike, log_rate: ArrayLike, params: Any, mask: ArrayLike | None = None, *, starts: Any = None
    ) -> Array:
        """Return the posterior mean of the spike counts given traces and rates, (T, N).

        Where the likelihood is not defined (masked, no full past) this is the prior mean, the rate itself.
        """
        ...

    def sample(self, key: Array, log_rate: ArrayLike, params: Any, *, starts: Any = None) -> Sample:
        """Draw traces and spike counts at the given rates, each (T, N)."""
        ...

    def constrain(self, unconstrained: dict[str, Array]) -> Any:
        """Return the model's parameters from a dict of unconstrained arrays, for gradient-based optimisers."""
        ...

    def unconstrain(self, params: Any) -> dict[str, Array]:
        """Return the unconstrained arrays of parameters, the inverse of `constrain`."""
        ...
