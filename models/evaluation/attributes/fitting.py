"""Fits the attribute heads of a checkpoint on region tokens; every other weight stays as it is.

    python -m ureca.models.evaluation.attributes.fitting --bundle BUNDLE --data DIR [--data DIR]
        --cache DIR -o CHECKPOINT

Tokens are computed once and kept in the cache, so a run that was stopped goes on. The heads are
linear and fitted together. On one half of the held-out pictures a temperature and a small offset
for every word are fitted, and the threshold below which a head abstains; the other half is
reported. A head that never reaches its accuracy there is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ureca.attributes import ATTRIBUTES, OFF_BY_DEFAULT
from ureca.bundle import AttributeHead, AttributeWeights
from ureca.models.data.attributes import NOT_APPLICABLE
from ureca.models.evaluation.attributes.cases import AttributeCase, read_cases
from ureca.models.evaluation.attributes.tokens import keep_tokens, load_tokens
from ureca.models.runtime.attributes import ARRAYS, ATTRIBUTES_FILE, COMPUTED, save_arrays
from ureca.models.runtime.load import load_engine

F32 = npt.NDArray[np.float32]
_LEAST_REGIONS: Final = 12
"""Words that fewer training regions have are left out."""
_MOST_WORDS: Final = 120
_TARGET: Final = 0.85
"""Accuracy on the calibrating half that a threshold must reach for what is said."""
_LEAST_SAID: Final = 8
"""A head that says fewer words than this on the calibrating half is left out."""
_LEAST_KNOWN: Final = 20
"""So many regions of the calibrating half must have the attribute."""
_ENOUGH_PHOTOGRAPHS: Final = 100
_NOT_FITTED: Final = frozenset({"state", "interaction"})
"""People name a state where it strikes them. Without regions that are known to have none, a head
says one of everything. What a person does to something is right in .65 of what was said (17 of 60
held-out regions) although the calibrating half promised .85.
"""
_EPOCHS, _BATCH, _RATE, _DECAY, _DROPOUT = 10, 256, 1e-3, 0.3, 0.3
_RIDGE: Final = 0.02


@dataclass(frozen=True, slots=True)
class HeadData:
    """What is known of one attribute: its words, rows i64 [n] of the tokens, and the truth f32
    [n, words], whose rows sum to 1.
    """

    words: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    truth: F32


def list_words(cases: Sequence[AttributeCase], name: str) -> tuple[str, ...]:
    """The closed list of an attribute: "" first if it may not apply, then by frequency."""
    trained = [case.mined.get(name, frozenset()) for case in cases if case.half == "train"]
    counts = Counter(word for words in trained for word in words)
    kept = [w for w, n in counts.most_common() if n >= _LEAST_REGIONS and w != NOT_APPLICABLE]
    none = (NOT_APPLICABLE,) if NOT_APPLICABLE in counts else ()
    return (*none, *kept[:_MOST_WORDS])


def collect(cases: Sequence[AttributeCase], name: str, words: Sequence[str]) -> HeadData:
    """The truth of one attribute; regions whose words are all unknown are left out."""
    place = {word: column for column, word in enumerate(words)}
    rows, truth = [], []
    for row, case in enumerate(cases):
        known = [place[word] for word in case.mined.get(name, ()) if word in place]
        if known:
            rows.append(row)
            truth.append(np.bincount(known, minlength=len(words)) / len(known))
    return HeadData(
        tuple(words), np.array(rows, np.int64), np.array(truth, np.float32).reshape(-1, len(words))
    )


def thin(data: HeadData, rng: np.random.Generator) -> HeadData:
    """At most as many regions without the attribute as with it."""
    if not data.words or data.words[0] != NOT_APPLICABLE:
        return data
    without = np.flatnonzero(data.truth[:, 0] == 1)
    most = len(data.rows) - len(without)
    kept = np.setdiff1d(np.arange(len(data.rows)), without)
    chosen = rng.choice(without, min(most, len(without)), replace=False)
    order = np.sort(np.concatenate([kept, chosen]))
    return HeadData(data.words, data.rows[order], data.truth[order])


def fit_heads(tokens: Tensor, heads: Mapping[str, HeadData], *, seed: int = 0) -> dict[str, Tensor]:
    """Linear heads f32 [D + 1, words], the bias last, for tokens f32 [N, D] of unit spread."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [len(data.words) for data in heads.values()]
    truth = torch.zeros(len(tokens), sum(sizes))
    start = 0
    for data in heads.values():
        columns = slice(start, start + len(data.words))
        truth[torch.from_numpy(data.rows), columns] = torch.from_numpy(data.truth)
        start += len(data.words)
    used = torch.nonzero(truth.sum(1)).flatten()
    layer = torch.nn.Linear(tokens.shape[1], sum(sizes))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    steps = _EPOCHS * -(-len(used) // _BATCH)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for _ in range(_EPOCHS):
        order = used[torch.randperm(len(used), generator=generator)]
        for rows in torch.split(order, _BATCH):
            kept = torch.rand(len(rows), tokens.shape[1], generator=generator) > _DROPOUT
            logits = torch.split(layer(tokens[rows] * kept / (1 - _DROPOUT)), sizes, 1)
            parts = zip(logits, torch.split(truth[rows], sizes, 1), strict=True)
            costs = [(said.log_softmax(1) * true).sum() for said, true in parts]
            loss = -torch.stack(costs).sum() / len(rows)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    whole = torch.cat([layer.weight.T, layer.bias[None]]).detach()
    return dict(zip(heads, torch.split(whole, sizes, 1), strict=True))


def calibrate(logits: Tensor, truth: Tensor) -> tuple[float, Tensor]:
    """The factor of the logits f32 [n, words], and an offset for every word, that fit the truth."""
    factor = torch.zeros((), requires_grad=True)
    offset = torch.zeros(logits.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([factor, offset], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        said = (logits * factor.exp() + offset).log_softmax(1)
        cost = -(said * truth).sum(1).mean() + _RIDGE * (offset**2).mean() * logits.shape[1]
        cost = cost + _RIDGE * factor**2
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return float(factor.exp().detach()), offset.detach()


def choose_threshold(
    chances: F32, truth: F32, *, none: bool, target: float = _TARGET
) -> float | None:
    """The lowest probability from which on what is said reaches the target; None if there is none.
    Regions without the attribute count: what is said of them is wrong.
    """
    best = chances.argmax(axis=1)
    said = best != 0 if none else np.ones(len(best), bool)
    right = (truth[np.arange(len(best)), best] > 0)[said]
    top = chances[np.arange(len(best)), best][said]
    order = np.argsort(-top, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero((share >= target) & (np.arange(len(order)) >= _LEAST_SAID - 1))
    return float(top[order][enough[-1]]) if len(enough) else None


def prefer_photographs(cases: Sequence[AttributeCase], data: HeadData) -> npt.NDArray[np.bool_]:
    """Which of all `cases` calibrate: photographs, if enough of them have the attribute. Renderings
    are easier, and would make answers about photographs too sure.
    """
    photographs = np.array([case.kind == "photographs" for case in cases])
    enough = int(photographs[data.rows].sum()) >= _ENOUGH_PHOTOGRAPHS
    return photographs if enough else np.ones(len(cases), bool)


def choose_for_all(cases: Sequence[AttributeCase], data: HeadData, chances: F32) -> float | None:
    """The threshold that holds for all regions and for every source with enough of them. What is
    said must be right as often as the commonest word, if that is more than the target.
    """
    none = data.words[0] == NOT_APPLICABLE
    real = data.truth[:, 0] < 1 if none else np.ones(len(data.truth), np.bool_)
    if real.sum() < _LEAST_KNOWN:
        return None
    target = max(_TARGET, float((data.truth[real] > 0).mean(axis=0).max()))
    sources = np.array([cases[row].record.source for row in data.rows])
    parts = [sources == source for source in sorted(set(sources))]
    parts = [own for own in parts if (own & real).sum() >= _LEAST_KNOWN]
    found = [
        choose_threshold(chances[own], data.truth[own], none=none, target=target)
        for own in (np.ones(len(real), np.bool_), *parts)
    ]
    known = [least for least in found if least is not None]
    return max(known) if len(known) == len(found) else None


def fit(
    cases: Sequence[AttributeCase], tokens: F32, *, seed: int = 0
) -> tuple[AttributeWeights, dict[str, F32]]:
    """The heads that hold, and their arrays. `tokens` f32 [N, D] are those of the `cases`."""
    rng = np.random.default_rng(seed)
    halves = np.array([case.half for case in cases])
    trained = tokens[halves == "train"]
    centre, spread = trained.mean(axis=0), trained.std(axis=0) + 1e-3
    x = torch.from_numpy((tokens - centre) / spread)
    words = {
        name: list_words(cases, name) for name in ATTRIBUTES if name not in COMPUTED | _NOT_FITTED
    }
    known = {name: collect(cases, name, found) for name, found in words.items() if len(found) > 2}
    parts = {
        half: {name: thin(_select(data, halves == half), rng) for name, data in known.items()}
        for half in ("train", "calibrate")
    }
    heads, arrays = {}, {}
    for name, whole in fit_heads(x, parts["train"], seed=seed).items():
        data = parts["calibrate"][name]
        if not len(data.rows):
            continue
        near = _select(data, prefer_photographs(cases, data))
        logits = x[near.rows] @ whole[:-1] + whole[-1]
        factor, offset = calibrate(logits, torch.from_numpy(near.truth))
        every = (x[data.rows] @ whole[:-1] + whole[-1]) * factor + offset
        chances = functional.softmax(every, dim=1).numpy()
        least = choose_for_all(cases, data, chances)
        sys.stderr.write(f"{name}: {len(data.rows)} regions, factor {factor:.2f}, from {least}\n")
        if least is None:
            continue
        scaled = whole[:-1].numpy() * factor / spread[:, None]
        bias = whole[-1].numpy() * factor + offset.numpy() - centre @ scaled
        heads[name] = AttributeHead(words=data.words, min_probability=round(least, 4))
        arrays[f"{name}.weights"] = scaled.astype(np.float32)
        arrays[f"{name}.bias"] = bias.astype(np.float32)
    return AttributeWeights(heads=heads), arrays


def _select(data: HeadData, wanted: npt.NDArray[np.bool_]) -> HeadData:
    kept = wanted[data.rows]
    return HeadData(data.words, data.rows[kept], data.truth[kept])


def save(section: AttributeWeights, arrays: Mapping[str, F32], checkpoint: Path) -> None:
    """Write the files of a checkpoint that its export takes."""
    by_kind = {
        kind: {name: arrays[f"{name}.{kind}"].astype(np.float32) for name in section.heads}
        for kind in ("weights", "bias")
    }
    save_arrays(checkpoint / ARRAYS, by_kind["weights"], by_kind["bias"])
    text = msgspec.json.format(msgspec.json.encode(section), indent=1)
    (checkpoint / ATTRIBUTES_FILE).write_bytes(text + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, and write the heads into a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m ureca.models.evaluation.attributes.fitting")
    parser.add_argument("--bundle", type=Path, required=True, help="whose region tokens are read")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder for tokens")
    parser.add_argument("--pictures", type=int, default=4000, help="of each folder, at most (4000)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the checkpoint")
    options = parser.parse_args(argv)
    found = [(root, read_cases(root)) for root in options.data]
    engine = load_engine(options.bundle, threads=1)
    for root, cases in found:
        keep_tokens(engine, root, cases, options.cache, pictures=options.pictures)
    known = load_tokens(options.cache)
    cases = [one for _, each in found for one in each if one.record.region_id in known]
    rows = [known[case.record.region_id].astype(np.float32).ravel() for case in cases]
    section, arrays = fit(cases, np.stack(rows))
    save(section, arrays, options.out)
    off = sorted(OFF_BY_DEFAULT & {*section.heads})
    sys.stdout.write(json.dumps({"regions": len(cases), "heads": [*section.heads], "off": off}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
