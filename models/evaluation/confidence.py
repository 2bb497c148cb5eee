"""Fits and measures the captions' confidence on held-out regions: is the head noun right?

    python -m ureca.models.evaluation.confidence --bundle BUNDLE --data DIR [--data DIR] [-o JSON]

Pictures are halved by the hash of their keys. Every figure is of regions that did not fit the
weights it is about. With `-o` the weights of all of them go into a `grounding.json`. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ureca.bundle import GroundingWeights
from ureca.datatypes import RegionInput, Rle, RowDone
from ureca.engine import ScoringEngine, supports_scoring
from ureca.errors import BundleError
from ureca.models.data.regions import HELD_OUT_EVERY, ImageStore, hash_image_key
from ureca.models.evaluation.test_set import EvaluationCase, group_by_picture, read_data
from ureca.models.evaluation.text.phrase_parsing import is_headed_by
from ureca.models.runtime.confidence import FEATURES, CaptionEvidence
from ureca.models.runtime.load import load_engine
from ureca.protocol import rle

F64 = npt.NDArray[np.float64]
_RIDGE: Final = 1.0
_STEPS: Final = 50
_BINS: Final = 10
_MOST_REGIONS: Final = 24


@dataclass(frozen=True, slots=True)
class JudgedNames:
    """N captions: features f64 [N, F] in the order of `FEATURES`, whether each names its region
    f64 [N] of 0/1, the half of its picture i64 [N], and its source.
    """

    features: F64
    right: F64
    half: npt.NDArray[np.int64]
    source: npt.NDArray[np.str_]


def read_captions(engine: ScoringEngine, root: Path, *, limit: int | None) -> JudgedNames:
    """Caption the held-out, named regions of a data folder; at most 24 of a picture."""
    cases = read_data(root, every=HELD_OUT_EVERY).cases
    by_picture = group_by_picture([case for case in cases if case.outlined])
    images = ImageStore([root / "images"])
    keys = sorted((k for k in by_picture if k in images), key=hash_image_key)[:limit]
    rows: list[tuple[list[float], float, int, str]] = []
    for key in tqdm(keys, desc=f"captions of {root.name}", unit="picture"):
        named = [c for c in by_picture[key] if c.find_accepted_names("both")][:_MOST_REGIONS]
        half = hash_image_key(f"half {key}") % 2
        for case, evidence in _caption(engine, images, key, named):
            right = is_headed_by(evidence.text, case.find_accepted_names("both"))
            values = evidence.values()
            rows.append(([values[n] for n in FEATURES], right, half, case.record.source))
    return JudgedNames(
        np.array([values for values, _, _, _ in rows]),
        np.array([float(right) for _, right, _, _ in rows]),
        np.array([half for _, _, half, _ in rows]),
        np.array([source for _, _, _, source in rows]),
    )


def _caption(
    engine: ScoringEngine, images: ImageStore, key: str, cases: Sequence[EvaluationCase]
) -> Iterator[tuple[EvaluationCase, CaptionEvidence]]:
    masks = [rle.decode(Rle((c.record.height, c.record.width), c.record.counts)) for c in cases]
    kept = [(case, mask) for case, mask in zip(cases, masks, strict=True) if mask.any()]
    if not kept:
        return
    frame = engine.encode(images.read(key))
    regions = [RegionInput(m, max_new_tokens=engine.info.max_new_tokens) for _, m in kept]
    ends = [out for out in engine.caption(frame, regions) if isinstance(out, RowDone)]
    scores = engine.score(frame, regions, [end.text for end in ends], max_fit=0)
    assert scores.clarity is not None
    for text, end in enumerate(ends):
        case, mask = kept[end.row]
        first, second, third = scores.clarity[end.row].tolist()
        yield (
            case,
            CaptionEvidence(
                text=end.text,
                score=end.score,
                tokens=end.n_tok,
                bag=float(scores.bag[text, end.row]),
                clarity=(first, second, third),
                area=float(mask.mean()),
            ),
        )


def fit(features: F64, right: F64) -> F64:
    """Weights f64 [F] of a logistic regression with a small ridge, bias first and free."""
    spread = features.std(axis=0) + 1e-6
    centre = features.mean(axis=0)
    spread[0], centre[0] = 1.0, 0.0
    x, weights = (features - centre) / spread, np.zeros(features.shape[1])
    ridge = np.full(len(weights), _RIDGE)
    ridge[0] = 1e-6
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (p - right) + ridge * weights
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        weights -= np.linalg.solve(curve, slope)
    plain = weights / spread
    plain[0] -= float(centre @ plain)
    return np.asarray(plain, np.float64)


def measure(confidence: F64, right: F64) -> dict[str, float]:
    """AUC of right against wrong, calibration error over ten bins of equal mass, share right."""
    order = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    good = right == 1
    wrong = len(right) - int(good.sum())
    auc = float("nan")
    if good.any() and wrong:
        auc = float((order[good].sum() - good.sum() * (good.sum() - 1) / 2) / (good.sum() * wrong))
    bins = np.array_split(np.argsort(confidence, kind="stable"), _BINS)
    gaps = [abs(confidence[b].mean() - right[b].mean()) * len(b) for b in bins if len(b)]
    error = float(sum(gaps) / len(right))
    return {"n": len(right), "auc": auc, "ece": error, "right": float(right.mean())}


def predict(weights: F64, features: F64) -> F64:
    """The confidence of captions f64 [N]."""
    return np.asarray(1 / (1 + np.exp(-np.clip(features @ weights, -30, 30))))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; write the weights."""
    parser = argparse.ArgumentParser(prog="python -m ureca.models.evaluation.confidence")
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle that scores texts")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--limit", type=int, help="at most this many pictures of each folder")
    parser.add_argument("-o", "--out", type=Path, help="a grounding.json that gets the weights")
    options = parser.parse_args(argv)
    engine = load_engine(options.bundle)
    if not supports_scoring(engine):
        raise BundleError(f"{options.bundle} cannot score texts: it has no `grounding` section")
    found = [read_captions(engine, root, limit=options.limit) for root in options.data]
    features = np.concatenate([one.features for one in found])
    right = np.concatenate([one.right for one in found])
    half = np.concatenate([one.half for one in found])
    source = np.concatenate([one.source for one in found])
    confidence = np.zeros(len(right))
    for side in (0, 1):
        weights = fit(features[half != side], right[half != side])
        confidence[half == side] = predict(weights, features[half == side])
    table = {"all": measure(confidence, right)}
    table |= {s: measure(confidence[source == s], right[source == s]) for s in sorted(set(source))}
    for _name, _row in table.items():
        pass
    if options.out:
        _write(options.out, fit(features, right), table["all"])
    return 0


def _write(path: Path, weights: F64, figures: dict[str, float]) -> None:
    old = msgspec.json.decode(path.read_bytes(), type=GroundingWeights)
    named = {name: round(float(w), 4) for name, w in zip(FEATURES, weights, strict=True)}
    kept = {f"confidence_{name}": round(value, 4) for name, value in figures.items()}
    new = msgspec.structs.replace(old, confidence=named, figures={**old.figures, **kept})
    path.write_bytes(msgspec.json.format(msgspec.json.encode(new), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
