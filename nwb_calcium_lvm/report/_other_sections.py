"""The sections after the results: which model, what next, what to cite, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nwb_calcium_lvm import plotting
from nwb_calcium_lvm.citing import cite, references_of
from nwb_calcium_lvm.report._document import Advice, AdviceList, Block, Code, Facts, Section, Table, Text
from nwb_calcium_lvm.report._pictures import picture
from nwb_calcium_lvm.report._result_sections import score_of
from nwb_calcium_lvm.result import InferenceResult, installed_versions

_SIZES = ("n_states", "n_latents", "n_factors")


def selection_section(results: Mapping[str, InferenceResult], selections: Mapping[str, Any]) -> Section | None:
    """Return what speaks for which model: held-out scores that were given, and the results in the file side by side."""
    blocks: list[Block] = []
    for name, selection in selections.items():
        scores = dict(zip(selection.observations, selection.scores, strict=True))
        chosen = ", ".join(f"{k} states for {o}" for o, k in selection.chosen.items())
        blocks.append(
            picture(
                lambda selection=selection, scores=scores: plotting.model_selection(selection.n_states, scores),
                f"{name}: held-out score against the number of states. Chosen: {chosen}.",
            )
        )
    rows = [_row(name, result) for name, result in results.items() if score_of(result) is not None]
    if len(rows) > 1:
        header = ("result", "model", "size", "observation", "nats per sample", "converged")
        blocks.append(Table(header, rows, title="Results in this file"))
        blocks.append(
            Text(
                "These scores are of the data that were fitted, and rise with the size of the model. Choose by "
                "held-out score: hmm.select_n_states, or CalciumGPFA.cosmooth.",
                tone="note",
            )
        )
    return Section("selection", "Model selection", blocks) if blocks else None


def _row(name: str, result: InferenceResult) -> list[Any]:
    settings = result.model.get("hyperparameters") or {}
    size = next((int(settings[k]) for k in _SIZES if isinstance(settings.get(k), int)), None)
    score = score_of(result)
    return [
        name,
        str(result.model.get("name", "?")),
        size,
        str(settings.get("observation", "–")),
        None if score is None else float(score),
        result.converged,
    ]


def advice_section(found: Sequence[Advice]) -> Section:
    """Return what to try next."""
    if not found:
        block: Block = Text("Nothing in the numbers looks wrong. Look at the pictures all the same.")
    else:
        block = AdviceList(found)
    return Section("next", "What to try next", [block])


def references_section(path: Any, results: Mapping[str, InferenceResult]) -> Section:
    """Return what to cite, as text and as BibTeX."""
    if not results:
        return Section("references", "References", [Text("There is no result to cite for.")])
    found = [Facts([(r.role or r.key, r.text()) for r in references_of(path)], wide=True)]
    return Section("references", "References", [*found, Code(cite(path, style="bibtex"), title="BibTeX")])


def provenance_section(results: Mapping[str, InferenceResult]) -> Section:
    """Return the versions and hyper-parameters behind each result, and those of this report."""
    blocks: list[Block] = []
    for name, result in results.items():
        settings = result.model.get("hyperparameters") or {}
        seed = result.model.get("random_state")
        pairs = [(key, _short(value)) for key, value in settings.items()]
        blocks.append(Facts([*pairs, ("seed", "not said" if seed is None else str(seed))], title=f"Settings of {name}"))
        blocks.append(Facts(list(result.versions.items()), title=f"{name} was made with"))
    blocks.append(Facts(list(installed_versions().items()), title="This report was made with"))
    return Section("provenance", "Versions and settings", blocks)


def _short(value: Any) -> str:
    text = str(np.asarray(value).tolist()) if isinstance(value, np.ndarray) else str(value)
    return text if len(text) <= 300 else text[:300] + " ..."
