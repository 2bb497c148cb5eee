"""Judges captions of synthetic images by the scene itself, slot by slot.

A root made by `ureca worlds make` has `scenes-*.jsonl.gz` beside its regions. The judge is the one
that checks the worlds' own captions: any true and unique phrase is right. It is part of a checkout
only; without it `MissingExtraError` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ureca.extras import CHECKOUT_ONLY, checkout_error
from ureca.models.evaluation.measures.scores import Figures, compute_mean
from ureca.models.evaluation.test_set import EvaluationCase

if TYPE_CHECKING:
    from ureca.models.data.synthetic.language.judge import Judgement
    from ureca.models.data.synthetic.language.truth import NodeTruth, ViewTruth

SLOTS: Final[dict[str, str]] = {
    "kind": "kind_right",
    "part": "part_right",
    "colour": "colour_true",
    "relation": "relation_true",
    "containment": "containment_true",
    "state": "state_true",
}
"""Names in the report, and the fields of `Judgement` behind them."""


@dataclass(frozen=True, slots=True)
class JudgedCaption:
    """A caption's region and its judgement."""

    region_id: str
    node: NodeTruth
    judgement: Judgement


def list_scene_files(root: Path) -> list[Path]:
    """List the truth files of a root; empty for photographs."""
    return sorted(root.glob("scenes-*.jsonl.gz"))


def read_views(paths: Iterable[Path], wanted: Iterable[str]) -> dict[str, ViewTruth]:
    """Read the views of the wanted images by `image_key`."""
    try:
        from ureca.models.data.synthetic.language.truth import read_truth
    except ModuleNotFoundError as error:
        if error.name != CHECKOUT_ONLY:
            raise
        raise checkout_error() from error
    keys = set(wanted)
    views = (view for path in paths for view in read_truth(path))
    return {view.image_key: view for view in views if view.image_key in keys}


def judge_all(
    cases: Sequence[EvaluationCase], captions: Mapping[str, str], views: Mapping[str, ViewTruth]
) -> list[JudgedCaption]:
    """Judge every captioned region whose view and node are known."""
    from ureca.models.data.synthetic.language.judge import judge_caption

    judged = []
    for case in cases:
        view, caption = views.get(case.image_key), captions.get(case.region_id)
        name = case.region_id.removeprefix(f"{case.image_key}_")
        if view is not None and caption is not None and name in view.nodes:
            found = judge_caption(view, name, caption)
            judged.append(JudgedCaption(case.region_id, view.nodes[name], found))
    return judged


def compute_slot_figures(judged: Sequence[JudgedCaption]) -> dict[str, Figures]:
    """Return slot accuracies of all regions, by node type, and of appearances that training never
    showed.
    """
    groups: dict[str, list[JudgedCaption]] = {"all": list(judged)}
    for item in judged:
        look = "held-back look" if item.node.held_back else "known look"
        for name in (item.node.type, look):
            groups.setdefault(name, []).append(item)
    return {name: _compute_figures(items) for name, items in groups.items()}


def _compute_figures(items: Sequence[JudgedCaption]) -> Figures:
    figures: Figures = {"n": len(items)}
    for slot, name in SLOTS.items():
        said = (getattr(item.judgement, name) for item in items)
        verdicts = [float(verdict) for verdict in said if verdict is not None]
        figures[slot] = compute_mean(verdicts)
        figures[f"n_{slot}"] = len(verdicts)
    for name in ("readable", "true", "unique"):
        figures[name] = compute_mean([float(getattr(item.judgement, name)) for item in items])
    return figures
