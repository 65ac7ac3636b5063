"""What to cite for a model or a result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.references import TABLE, Reference

_OF_MODEL = {
    "CalciumHMM": ("rabiner1989",),
    "CalciumGPFA": ("yu2009",),
    "CalciumLFADS": ("pandarinath2018",),
    "S2SSpikeEstimator": ("sebastian2021", "rupprecht2021"),
    "FilterSpikeEstimator": ("minka2001", "ganmor2016", "rupprecht2021"),
    "OASISSpikeEstimator": ("friedrich2017", "rupprecht2021"),
    "VAESpikeEstimator": ("speiser2017", "deneux2016"),
}
_LATENT = ("CalciumHMM", "CalciumGPFA", "CalciumLFADS")  # models that take an observation model
_OF_OBSERVATION = {"calcium": ("ganmor2016", "keeley2025"), "calcium_noisy": ("ganmor2016", "keeley2025", "minka2001")}
_OF_FILE = ("ruebel2022", "ndx_calcium_lvm")
_STYLES = ("text", "bibtex")


def cite(what: Any, style: str = "text") -> str:
    """Return the references that a model or a result rests on.

    They are those of the model, of its observation model, of NWB and the extension where the result is in a file, and
    of this software.

    Parameters
    ----------
    what : estimator, InferenceResult, or path
        A path is of an NWB file: all results in it count.
    style : {"text", "bibtex"}
        ``"text"``: a line each; ``"bibtex"``: an entry each.

    Raises
    ------
    DataError
        If ``what`` is nothing of these, or a file without results.

    Examples
    --------
    >>> from nwb_calcium_lvm import CalciumHMM
    >>> cite(CalciumHMM()).splitlines()[0][:66]
    'Rabiner LR (1989). A tutorial on hidden Markov models and selected'
    """
    if style not in _STYLES:
        raise DataError(f"style={style!r} is not known. Expected one of {', '.join(map(repr, _STYLES))}.")
    found = references_of(what)
    return "\n".join(r.text() for r in found) if style == "text" else "\n\n".join(r.bibtex() for r in found)


def references_of(what: Any) -> list[Reference]:
    """Return the references of an estimator, a result, or an NWB file, each once; see :func:`cite`."""
    if isinstance(what, str | os.PathLike):
        keys = _of_file(Path(what))
    elif hasattr(what, "model") and hasattr(what, "versions"):
        keys = _of_result(what)
    elif hasattr(what, "get_params") and type(what).__name__ in _OF_MODEL:
        keys = _of_model(type(what).__name__, what.get_params(deep=False))
    else:
        raise DataError(
            f"{what!r} is a {type(what).__name__}. Expected an estimator of this package ({', '.join(_OF_MODEL)}), an "
            "InferenceResult, or the path of an NWB file with results."
        )
    version = _version(what)
    known = [TABLE[key] for key in dict.fromkeys([*keys, "nwb_calcium_lvm"])]
    return [replace(r, where=f"software, version {version}") if r.key == "nwb_calcium_lvm" else r for r in known]


def _of_model(name: str, parameters: Mapping[str, Any]) -> list[str]:
    keys = list(_OF_MODEL.get(name, ()))
    if name in _LATENT:
        keys += _OF_OBSERVATION.get(str(parameters.get("observation", "calcium")), ())
    if name == "CalciumLFADS" and parameters.get("coordinated_dropout"):
        keys.append("keshtkaran2022")
    return keys


def _of_result(result: Any) -> list[str]:
    keys = _of_model(str(result.model.get("name")), result.model.get("hyperparameters") or {})
    return keys + {"nwb": ["ruebel2022"], "suite2p": ["pachitariu2017"]}.get(result.source.kind, [])


def _of_file(path: Path) -> list[str]:
    from nwb_calcium_lvm.io import read_results

    results = read_results(path, lazy=True)
    if not results:
        raise DataError(
            f"{path} holds no results of this package, so there is nothing to cite. Expected a file that write_nwb or "
            "`nwb-calcium-lvm fit` wrote."
        )
    return [key for result in results.values() for key in _of_result(result)] + list(_OF_FILE)


def _version(what: Any) -> str:
    """Version that made a result, or else the one that runs."""
    from nwb_calcium_lvm import __version__

    return getattr(what, "versions", {}).get("nwb-calcium-lvm", __version__)
