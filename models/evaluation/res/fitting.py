"""Fits the weights of grounding on held-out pictures.

`place` is a conditional logit (which region of the picture does this text mean?), `presence` a
logistic regression (is the text true of the region?) over the best region of each text, also of
texts that mean nothing in their picture. Thresholds are those with the best set IoU, a right empty
answer counting 1. Every data folder weighs the same, or as `--weight` says.

    python -m ureca.models.evaluation.res.fitting --bundle BUNDLE --data DIR [--data DIR] -o JSON
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ureca.bundle import GroundingWeights
from ureca.datatypes import Mask
from ureca.engine import ScoringEngine, supports_scoring
from ureca.errors import BundleError
from ureca.extras import require
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore, hash_image_key
from ureca.models.evaluation.res.answers import mask_iou, view
from ureca.models.evaluation.res.candidates import cut_candidates
from ureca.models.evaluation.res.cases import GroundingCase, Half, Texts, read_pictures
from ureca.models.runtime.grounding import Candidate, Grounder, load_weights
from ureca.models.runtime.grounding.decisions import choose
from ureca.models.runtime.grounding.features import FEATURES, Evidence, sigmoid
from ureca.models.runtime.grounding.phrases import parse
from ureca.models.runtime.load import load_engine
from ureca.models.runtime.segmentation.base import Segmenter
from ureca.models.runtime.segmentation.bundled import open_mask_head

F64 = npt.NDArray[np.float64]
Meant = npt.NDArray[np.bool_]

_RIDGE: Final = 1e-3
_OF_TEXT: Final = frozenset(
    (
        *("bias", "tokens", "usual", "usual_total", "bag_mean", "fit_mean", "mask"),
        *("sure", "sure_usual", "plain", "plain_usual", "plain_sure", "generic_bias"),
        "is_placed",
    )
)
"""Features that are the same for all candidates of a text (given masks have one score, too)."""
_MASK: Final = 1.0
"""Weight of the mask's own score in `place`: from the pilot with a segmenter's masks, not fitted
here, where all masks are given.
"""
_HIT, _CUT = 0.5, 0.5
"""IoU from which a segmenter's mask is the region that is meant; weight of such samples."""
_PRESENT: Final = tuple(np.arange(0.1, 0.75, 0.05).round(2).tolist())
_SEVERAL: Final = tuple(np.arange(0.3, 0.95, 0.05).round(2).tolist())
_GAP: Final = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One text about one picture: features f64 [N, F] in the order of `FEATURES`, whether each
    region is meant b1 [N], and what decisions need. `weight` makes folders equal. `is_cut`: the
    candidates are masks of a segmenter, of which none may be right.
    """

    features: F64
    meant: npt.NDArray[np.bool_]
    evidence: Evidence
    case: GroundingCase
    weight: float
    is_cut: bool = False


def collect(
    engine: ScoringEngine,
    weights: GroundingWeights,
    root: Path,
    *,
    half: Half,
    texts: Texts,
    limit: int | None = None,
    segmenter: Segmenter | None = None,
) -> list[Sample]:
    """The samples of a data folder, pictures in the order of their hash. With a segmenter, its
    masks are the candidates: those are meant whose IoU with a meant region is at least .5.
    """
    grounder, store = Grounder(engine, weights), ImageStore([root / "images"])
    pictures = read_pictures(root, every=HELD_OUT_EVERY, half=half, texts=texts)
    pictures = [picture for picture in pictures if picture.image_key in store]
    pictures.sort(key=lambda picture: hash_image_key(picture.image_key))
    found: list[tuple[GroundingCase, Evidence, Meant]] = []
    for picture in tqdm(pictures[:limit], desc=root.name, disable=None):
        image = store.read(picture.image_key)
        seen = view(picture, image, engine.encode(image))
        candidates = (
            [Candidate(mask) for mask in seen.masks]
            if segmenter is None
            else cut_candidates(segmenter, image)
        )
        if not candidates:
            continue
        phrases = [parse(case.text) for case in picture.cases]
        known = grounder.evidence(seen.frame, candidates, phrases)
        fits = _compare_masks(candidates, seen.masks, is_given=segmenter is None)
        found += [
            (case, evidence, np.asarray(fits[:, list(case.targets)].any(axis=1), np.bool_))
            for case, evidence in zip(picture.cases, known, strict=True)
        ]
    is_cut = segmenter is not None
    return [_sample(*one, weight=1 / len(found), is_cut=is_cut) for one in found]


def _compare_masks(
    candidates: Sequence[Candidate], truths: Sequence[Mask], *, is_given: bool
) -> Meant:
    """Which candidate is which true region, b1 [N, R]."""
    if is_given:
        return np.eye(len(truths), dtype=np.bool_)
    rows = [[mask_iou(one.mask, true) >= _HIT for true in truths] for one in candidates]
    return np.array(rows, np.bool_)


def _sample(
    case: GroundingCase, evidence: Evidence, meant: Meant, *, weight: float, is_cut: bool
) -> Sample:
    columns = [make(evidence) for make in FEATURES.values()]
    features = np.stack(columns, axis=1).astype(np.float64)
    return Sample(features, meant, evidence, case, weight, is_cut)


def fit_place(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, float]:
    """Weights of a conditional logit: the meant regions against the picture's others."""
    columns = [list(FEATURES).index(name) for name in names]
    asked = [s for s in samples if s.meant.any() and not s.meant.all()]
    x = np.concatenate([s.features[:, columns] for s in asked])
    meant = np.concatenate([s.meant for s in asked])
    weight = np.array([s.weight for s in asked])
    sizes = np.array([len(s.meant) for s in asked])
    starts = np.cumsum(sizes) - sizes

    def softmax(values: F64) -> F64:
        """Of each text's candidates."""
        powers = np.exp(values - np.repeat(np.maximum.reduceat(values, starts), sizes))
        return np.asarray(powers / np.repeat(np.add.reduceat(powers, starts), sizes), np.float64)

    def loss(w: F64) -> tuple[float, F64]:
        scores = x @ w
        chances, right = softmax(scores), softmax(np.where(meant, scores, -1e9))
        won = np.log(np.add.reduceat(chances * meant, starts) + 1e-300)
        slope = (np.repeat(weight, sizes) * (chances - right)) @ x
        return _RIDGE * float(w @ w) - float(weight @ won), slope + 2 * _RIDGE * w

    return _named(names, _minimum(loss, len(names)))


def fit_presence(
    samples: Sequence[Sample], place: dict[str, float], names: Sequence[str]
) -> dict[str, float]:
    """Weights of a logistic regression: is the text true of its best region by `place`?"""
    columns = [list(FEATURES).index(name) for name in names]
    best = [int(_total(place, sample).argmax()) for sample in samples]
    x = np.stack([s.features[row, columns] for s, row in zip(samples, best, strict=True)])
    y = np.array([s.meant[row] for s, row in zip(samples, best, strict=True)])
    each = np.array([sample.weight for sample in samples])

    def loss(w: F64) -> tuple[float, F64]:
        odds = x @ w
        signed = np.where(y, -odds, odds)
        value = float((each * np.logaddexp(0, signed)).sum()) + _RIDGE * float(w @ w)
        return value, (each * (sigmoid(odds.astype(np.float32)) - y)) @ x + 2 * _RIDGE * w

    return _named(names, _minimum(loss, len(names)))


def tune(samples: Sequence[Sample], weights: GroundingWeights) -> GroundingWeights:
    """The thresholds with the best mean score of sets, first for presence, then for several."""
    scored = [(s, *_decided(s, weights)) for s in samples]
    first = msgspec.structs.replace(weights, min_several=0.7)
    best = max(
        (msgspec.structs.replace(first, min_present=value) for value in _PRESENT),
        key=lambda tried: _set_score(scored, tried),
    )
    several = (
        msgspec.structs.replace(best, min_several=value, max_gap=gap)
        for value, gap in itertools.product(_SEVERAL, _GAP)
    )
    return max(several, key=lambda tried: _set_score(scored, tried))


_Scored = tuple[Sample, npt.NDArray[np.float32], npt.NDArray[np.float32]]


def _decided(
    sample: Sample, weights: GroundingWeights
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    place = _total(weights.place, sample).astype(np.float32)
    return place, sigmoid(_total(weights.presence, sample).astype(np.float32))


def _set_score(scored: Sequence[_Scored], weights: GroundingWeights) -> float:
    total = 0.0
    for sample, place, truth in scored:
        chosen = frozenset(choose(place, truth, sample.evidence, weights))
        total += sample.weight * max(_overlap(chosen, one) for one in sample.case.accepted)
    return total


def _overlap(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def _total(weights: dict[str, float], sample: Sample) -> F64:
    columns = [list(FEATURES).index(name) for name in weights]
    return np.asarray(sample.features[:, columns] @ np.array(list(weights.values())), np.float64)


def _minimum(loss: Callable[[F64], tuple[float, F64]], size: int) -> F64:
    optimize = require("scipy.optimize", extra="eval")
    found = optimize.minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, np.float64)


def _named(names: Sequence[str], values: F64) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def fit(samples: Sequence[Sample], plain: GroundingWeights) -> GroundingWeights:
    """All weights and thresholds; what is not fitted stays as in `plain`. Which mask is meant is
    learnt from given masks alone (with a segmenter's, .02 fewer of photographs' texts were right);
    whether a text is true, from both: given masks have one score.
    """
    given = [sample for sample in samples if not sample.is_cut]
    place = fit_place(given, [name for name in FEATURES if name not in _OF_TEXT])
    place["mask"] = _MASK
    has_cut = len(given) < len(samples)
    names = [name for name in FEATURES if has_cut or name != "mask"]
    presence = fit_presence(samples, place, names)
    return tune(given, msgspec.structs.replace(plain, place=place, presence=presence))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see `--help`."""
    options = _parser().parse_args(argv)
    plain, engine = load_weights(options.bundle), load_engine(options.bundle, threads=1)
    if plain is None or not supports_scoring(engine):
        raise BundleError(f"{options.bundle} cannot score texts: it has no section `grounding`")
    samples = list(_all(engine, plain, options))
    weights = msgspec.structs.replace(fit(samples, plain), arrays=None)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(weights), indent=1) + b"\n")
    sys.stdout.write(f"{len(samples)} texts: {weights}\n")
    return 0


def _all(
    engine: ScoringEngine, plain: GroundingWeights, options: argparse.Namespace
) -> Iterator[Sample]:
    shares = options.weight or [1.0] * len(options.data)
    segmenter = open_mask_head(options.bundle) if options.cut else None
    for root, share in zip(options.data, shares, strict=True):
        given = partial(collect, engine, plain, root, half="first", texts=options.texts)
        found = [(one, 1.0) for one in given(limit=options.limit)]
        if segmenter is not None:
            found += [(one, _CUT) for one in given(limit=options.cut, segmenter=segmenter)]
        yield from (
            replace(one, weight=one.weight * share * worth / sum(shares)) for one, worth in found
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fitting", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle with the graph score")
    parser.add_argument("--data", type=Path, action="append", required=True, help="data folder")
    parser.add_argument("--weight", type=float, action="append", help="of each data folder")
    parser.add_argument("--texts", choices=get_args(Texts), default="all")
    parser.add_argument(
        "--cut", type=int, default=0, help="pictures of each folder also with the masks of its head"
    )
    parser.add_argument("--limit", type=int, help="pictures of each folder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="grounding.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
