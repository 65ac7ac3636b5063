"""FIT.toml: which model, how sessions are read, where results go. Everything in it is checked before anything runs."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nwb_calcium_lvm.exceptions import DataError

MODELS = {
    "hmm": "CalciumHMM",
    "gpfa": "CalciumGPFA",
    "lfads": "CalciumLFADS",
    "s2s": "S2SSpikeEstimator",
    "filter": "FilterSpikeEstimator",
    "oasis": "OASISSpikeEstimator",
    "vae": "VAESpikeEstimator",
}
_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "model": {"name": str, "parameters": dict, "fitted": str, "weights": str},
    "read": {
        "series": str,
        "plane": int,
        "accepted": (bool, str),
        "neuropil_coefficient": (int, float),
        "baseline": str,
        "sampling_rate": (int, float),
        "indicator": str,
        "trials": str,
        "event": str,
        "window": list,
    },
    "output": {"folder": str, "name": str, "schema": str, "report": bool},
}
_CHECKS = {name: f"nwb_calcium_lvm.{name}.checks" for name in ("hmm", "gpfa", "lfads")}


@dataclass(frozen=True)
class Settings:
    """What is done to each session.

    Parameters
    ----------
    model : str
        Key of :data:`MODELS`.
    folder : Path
        Where results go.
    parameters : dict
        Of the estimator.
    fitted : Path, optional
        A model saved by ``estimator.save``, to be applied without a fit.
    weights : str, optional
        Of ``s2s`` or ``vae``.
    read : dict
        How sessions are read: arguments of :func:`read_nwb` and :func:`read_suite2p`, and ``trials``, ``event`` and
        ``window`` for cutting.
    name : str
        Name of the result in the file.
    schema : {"extension", "core"}
    report : bool
        Whether a page of HTML is written beside each result.
    """

    model: str
    folder: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    fitted: Path | None = None
    weights: str | None = None
    read: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    schema: str = "extension"
    report: bool = False

    @property
    def result_name(self) -> str:
        """Name of the result in the file."""
        return self.name or MODELS[self.model]

    def configuration(self) -> dict[str, Any]:
        """Return what a result depends on, as plain values: not where it goes, nor whether there is a report."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "fitted": None if self.fitted is None else _digest(self.fitted),
            "weights": self.weights
            if self.weights is None or not Path(self.weights).is_file()
            else _digest(self.weights),
            "read": self.read,
            "name": self.result_name,
            "schema": self.schema,
        }


def read_settings(path: str | Path) -> Settings:
    """Read and check a FIT.toml; relative paths in it are relative to its folder.

    Raises
    ------
    DataError
        If it cannot be read, or holds keys or values that are not known; the message names the closest known one.
    """
    source = Path(path)
    try:
        given = tomllib.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no file {source}. Expected a TOML file that says what to fit.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{source} cannot be read as TOML: {error}. Expected tables [model] and [output].") from error
    _known(given, _KEYS, f"{source}", "table")
    for table, keys in _KEYS.items():
        values = given.get(table, {})
        if not isinstance(values, dict):
            raise DataError(f"{source}: {table} is {values!r}. Expected a table, [{table}].")
        _known(values, keys, f"[{table}] of {source}", "key")
        for key, value in values.items():
            kinds = keys[key]
            wrong = not isinstance(value, kinds) or (isinstance(value, bool) and not _takes_bool(kinds))
            if wrong:
                raise DataError(
                    f"[{table}] of {source}: {key} = {value!r} is a {_kind(value)}, expected {_kinds(kinds)}."
                )
    model, output = given.get("model", {}), given.get("output", {})
    for table, key in (("model", "name"), ("output", "folder")):
        if key not in given.get(table, {}):
            raise DataError(f"{source} says no {key} in [{table}]. Expected {key} = ..., see docs/batch.md.")
    if model["name"] not in MODELS:
        raise DataError(f"[model] of {source}: name = {model['name']!r}; expected one of {', '.join(MODELS)}.")
    settings = Settings(
        model=model["name"],
        folder=_beside(source, output["folder"]),
        parameters=dict(model.get("parameters", {})),
        fitted=_beside(source, model["fitted"]) if "fitted" in model else None,
        weights=_weights(source, model.get("weights")),
        read=dict(given.get("read", {})),
        name=output.get("name", ""),
        schema=output.get("schema", "extension"),
        report=output.get("report", False),
    )
    check_settings(settings, str(source))
    return settings


def check_settings(settings: Settings, where: str) -> None:
    """Raise DataError where settings contradict themselves or the model."""
    if settings.schema not in ("extension", "core"):
        raise DataError(f"{where}: schema = {settings.schema!r}; expected 'extension' or 'core'.")
    if settings.report and settings.schema == "core":
        raise DataError(
            f"{where}: a report reads results back, which schema = 'core' does not allow. Drop one of them."
        )
    window = settings.read.get("window")
    numbers = window is not None and all(isinstance(w, int | float) and not isinstance(w, bool) for w in window)
    if window is not None and not (numbers and len(window) == 2 and window[0] < window[1]):
        raise DataError(f"{where}: window = {window!r}; expected two times in s around the event, such as [-1.0, 3.0].")
    if settings.weights is not None and settings.model not in ("s2s", "vae"):
        raise DataError(f"{where}: weights are for name = 's2s' or 'vae'; {settings.model} has none.")
    if settings.fitted is not None:
        if settings.parameters:
            raise DataError(f"{where}: a fitted model has its parameters already. Drop [model.parameters], or fitted.")
        if not settings.fitted.is_file():
            raise DataError(
                f"{where}: there is no fitted model {settings.fitted}. Expected a file of estimator.save()."
            )
    make_estimator(settings)


def make_estimator(settings: Settings) -> Any:
    """Return the estimator: the fitted one, or one to be fitted.

    Raises
    ------
    DataError
        If it has no such parameters or refuses their values.
    """
    import nwb_calcium_lvm

    cls = getattr(nwb_calcium_lvm, MODELS[settings.model])
    if settings.fitted is not None:
        loaded = nwb_calcium_lvm.load_model(settings.fitted)
        if type(loaded) is not cls:
            raise DataError(f"{settings.fitted} holds a {type(loaded).__name__}, not a {cls.__name__}.")
        return loaded
    parameters = {"random_state": 0} | settings.parameters  # a batch that is resumed goes on as it began
    known = cls().get_params(deep=False)
    if "random_state" not in known:
        parameters.pop("random_state")
    _known(parameters, known, f"[model.parameters] of a {cls.__name__}", "parameter")
    if settings.model == "s2s":
        return cls.from_pretrained(settings.weights or "default", **parameters)
    if settings.model == "vae" and not set(parameters) & {"n_updates", "method", "start", "config", "world"}:
        name = parameters.pop("generative", "ml_phys")  # a network that is used as it is takes recordings in parts
        return cls.from_pretrained(settings.weights or name, **parameters)
    estimator = cls(**parameters)
    if settings.model in _CHECKS:
        from importlib import import_module

        try:
            import_module(_CHECKS[settings.model]).check_parameters(estimator)
        except (ValueError, TypeError) as error:
            raise DataError(f"[model.parameters]: {error}") from error
    return estimator


def _known(given: Iterable[str], known: Mapping[str, Any], where: str, what: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{where}: {key!r} is no {what} that is known.{hint} Known: {', '.join(sorted(known))}.")


def _takes_bool(kinds: type | tuple[type, ...]) -> bool:
    return kinds is bool or (isinstance(kinds, tuple) and bool in kinds)


def _kind(value: Any) -> str:
    return {bool: "truth value", str: "text", dict: "table", list: "list"}.get(type(value), type(value).__name__)


def _kinds(kinds: type | tuple[type, ...]) -> str:
    words = {bool: "true or false", str: "text", dict: "a table", list: "a list", int: "a number", float: "a number"}
    several = kinds if isinstance(kinds, tuple) else (kinds,)
    return " or ".join(dict.fromkeys(words[kind] for kind in several))


def _beside(source: Path, path: str) -> Path:
    return (source.parent / Path(path).expanduser()).absolute()


def _weights(source: Path, name: str | None) -> str | None:
    """A file beside FIT.toml, or the name of weights that come with the package."""
    if name is None or not name.endswith(".npz"):
        return name
    return str(_beside(source, name))


def _digest(path: str | Path) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
