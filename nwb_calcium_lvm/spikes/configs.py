"""Configurations of the signal-to-signal estimator: the published one, and a better one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from typing import Any

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.spikes.examples import Augmentation
from nwb_calcium_lvm.spikes.network import Architecture

_KNOWN = {
    "loss": ("mixed", "pearson", "squared", "entropy"),
    "output": ("softplus", "linear"),
    "scaling": ("units", "zscore"),
}
_AT_LEAST_ONE = ("stride", "channels", "batch_size", "steps", "check_every", "n_members")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Parameters
    ----------
    loss : {"mixed", "pearson", "squared", "entropy"}
        ``"pearson"`` is 1 - r per example; ``"squared"`` the squared error over the variance of the neuron's target;
        ``"mixed"`` their sum, which correlates as well as the first and is in spikes per s as the second;
        ``"entropy"`` the cross-entropy of a spike per sample.
    squared_share : float
        Weight of the squared error in ``"mixed"``.
    seconds : float
        Length of an example, its margins included.
    margins : bool
        Whether the ends of an example, where the network would see beyond it, teach nothing. False: they do, with zeros
        beyond, as published for examples of 1 s.
    target_sd : float
        Standard deviation of the Gaussian that smooths the target, in s; 0 for raw counts.
    target_reach : int
        Samples at which that Gaussian is cut off on each side; 0: where it has vanished.
    batch_size, steps : int
        Examples per step, and most steps.
    learning_rate : float
        Of Adam.
    decay : bool
        Whether the learning rate falls to nothing along half a cosine, after a short rise.
    weight_decay : float
        Of AdamW.
    averaging : float
        The network kept is an exponential average over steps with this factor; 0: the last one.
    left_out : float
        Share of neurons whose loss decides when to stop; 0: none, train for all steps.
    patience : int
        Checks without a better loss on the neurons left out after which training stops.
    check_every : int
        Steps between checks and checkpoints.
    group_power : float
        Data sets are drawn in proportion to their number of neurons to this power.
    """

    loss: str = "mixed"
    squared_share: float = 1.0
    seconds: float = 20.0
    margins: bool = True
    target_sd: float = 0.04
    target_reach: int = 0
    batch_size: int = 32
    steps: int = 1500
    learning_rate: float = 3e-3
    decay: bool = True
    weight_decay: float = 1e-4
    averaging: float = 0.995
    left_out: float = 0.0
    patience: int = 0
    check_every: int = 250
    group_power: float = 0.5


@dataclass(frozen=True)
class S2SConfig:
    """Everything about a signal-to-signal estimator but its weights.

    Parameters
    ----------
    architecture : Architecture
    training : Training
    augmentation : Augmentation
    n_members : int
        Networks that are trained from different seeds and averaged.
    scaling : {"units", "zscore"}
        ``"units"`` keeps dF/F as it is and normalises traces of unknown unit; ``"zscore"`` divides every trace by its
        standard deviation, as published.
    calibrated : bool
        Whether outputs are spikes per s; else they are known up to scale and offset.

    Raises
    ------
    DataError
        For values that no network can be made or trained with.
    """

    architecture: Architecture = field(default_factory=Architecture)
    training: Training = field(default_factory=Training)
    augmentation: Augmentation = field(default_factory=Augmentation)
    n_members: int = 3
    scaling: str = "units"
    calibrated: bool = True

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> S2SConfig:
        """Rebuild from :meth:`to_dict`; entries that this version does not know are an error."""
        parts: dict[str, Any] = {"architecture": Architecture, "training": Training, "augmentation": Augmentation}
        made = {key: _build(parts[key], value) if key in parts else value for key, value in values.items()}
        return _build(cls, made)

    def changed(self, **changes: Any) -> S2SConfig:
        """Return a copy with fields of any of its parts changed by name, such as ``steps`` or ``channels``."""
        of_parts: dict[str, dict[str, Any]] = {"architecture": {}, "training": {}, "augmentation": {}}
        own: dict[str, Any] = {}
        for key, given in changes.items():
            owners = [new for part, new in of_parts.items() if hasattr(getattr(self, part), key)]
            if not owners and key not in {f.name for f in fields(self)}:
                raise TypeError(f"S2SConfig and its parts have no field {key!r}")
            (owners[0] if owners else own)[key] = tuple(given) if isinstance(given, list) else given
        parts = {part: replace(own.pop(part, getattr(self, part)), **new) for part, new in of_parts.items()}
        return replace(self, **parts, **own)


def _check(config: S2SConfig) -> None:
    shape, training = config.architecture, config.training
    values = {**vars(shape), **vars(training), **vars(config)}
    for name, known in _KNOWN.items():
        if values[name] not in known:
            raise DataError(f"{name}={values[name]!r} is not known. Expected one of {', '.join(known)}.")
    for name in _AT_LEAST_ONE:
        if not isinstance(values[name], Integral) or values[name] < 1:
            raise DataError(f"{name}={values[name]!r} is not a number of anything. Expected a whole number, 1 or more.")
    for name in ("analysis_width", "synthesis_width"):
        if values[name] < shape.stride or values[name] % shape.stride:
            raise DataError(
                f"{name}={values[name]!r} is no multiple of stride={shape.stride}. Expected one, such as "
                f"{max(round(values[name] / shape.stride), 1) * shape.stride}."
            )
    if not training.learning_rate > 0:
        raise DataError(f"learning_rate={training.learning_rate!r} teaches nothing. Expected a number above 0.")
    if not 0 <= training.left_out < 1:
        raise DataError(f"left_out={training.left_out!r} is not a share. Expected 0 or more, and less than 1.")


def _build(cls: Any, values: dict[str, Any]) -> Any:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(unknown)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


DEFAULT = S2SConfig()

PUBLISHED = S2SConfig(
    architecture=Architecture(
        rate=100.0,
        stride=1,
        channels=30,
        analysis_width=100,
        synthesis_width=100,
        dense_layers=3,
        dilations=(),
        conditioned=False,
        output="linear",
        input_scale=1.0,
    ),
    training=Training(
        loss="pearson",
        seconds=10.0,
        target_sd=0.05,
        target_reach=5,
        batch_size=20,
        steps=20000,
        learning_rate=1e-3,
        decay=False,
        weight_decay=0.0,
        averaging=0.0,
        left_out=0.2,
        patience=6,
        check_every=200,
        group_power=1.0,
    ),
    augmentation=Augmentation(resampled=0.0, noisier=0.0, unit_lost=0.0),
    n_members=1,
    scaling="zscore",
    calibrated=False,
)

CONFIGS = {"default": DEFAULT, "published": PUBLISHED}
