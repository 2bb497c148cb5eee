"""Compares the captions of a `ureca-mllm` bundle with those of its checkpoint.

The reference is the checkpoint as the package runs it: separate adapters, the whole prompt of every
region through `generate`, logits without a cache. The candidate is the bundle as the node runs it:
merged adapters, one prefix, one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from ureca.bundle import BundleManifest, bundle_sha
from ureca.datatypes import RegionInput
from ureca.export.config import Tolerances
from ureca.export.parity.comparison import ProbeOutput, measure_agreement
from ureca.export.parity.parity_inputs import ParityCase
from ureca.export.verify import Verification
from ureca.extras import require
from ureca.models.mllm import generate
from ureca.models.mllm.backend import make_prefix_input
from ureca.models.mllm.checkpoints.checkpoint import TOKENIZER, load_checkpoint
from ureca.models.mllm.mllm_engine import MllmEncodedPicture, MllmEngine, open_checkpoint
from ureca.models.mllm.network.mask_encoder import MllmMaskEncoder
from ureca.models.mllm.network.model import Mllm
from ureca.models.mllm.network.positions import PromptOpening
from ureca.models.mllm.prompt import TextTokenizer
from ureca.models.tokenizer import EOS_ID

COMPARED_TOKENS = 32
"""Tokens of a caption that are compared. Logits of large vocabularies need much memory."""


def check_parity(
    checkpoint: Path,
    bundle: Path,
    manifest: BundleManifest,
    *,
    cases: Sequence[ParityCase],
    source: str,
) -> Verification:
    """Compare the checkpoint (adapters separate, no shared prefix) with the bundle as the node runs
    it.
    """
    candidate = open_checkpoint(bundle)
    words, info = TextTokenizer.load(checkpoint / TOKENIZER), candidate.info
    model = load_checkpoint(checkpoint, merge=False, device=str(candidate.model.device))
    reference = MllmEngine(model, words, info=info)
    bar = tqdm(cases, desc="the checkpoint's captions", unit="picture", disable=None)
    ours = [run_unshared(reference, case) for case in bar]
    forced = [said.captions for said in ours]
    theirs = [run_shared(candidate, *pair) for pair in zip(cases, forced, strict=True)]
    other = make_control(reference)
    control = [run_shared(other, *pair) for pair in zip(cases, forced, strict=True)]
    package = require("transformers", extra="mllm")
    missing = {} if torch.cuda.is_available() else {"GPU": "no CUDA device was used"}
    if source.startswith("synthetic"):
        missing["real pictures"] = source
    missing["METEOR, CIDEr"] = "captions are compared token by token"
    return Verification(
        bundle_sha256=bundle_sha(manifest),
        checkpoint_sha256=manifest.checkpoint_sha256,
        proven_with=f"{manifest.runtime} {manifest.runtime_version}",
        versions={p.__name__: str(p.__version__) for p in (torch, package, np)},
        cases=source,
        tolerances=Tolerances(**manifest.tolerances),
        quantised=candidate.config.precision != "fp32",
        bundle=measure_agreement(ours, theirs),
        alone_exact=_count_equal_alone(candidate, cases[0]),
        control=measure_agreement(ours, control),
        words=None,
        not_proven=missing,
    )


def _prepare_inputs(
    engine: MllmEngine, case: ParityCase
) -> tuple[MllmEncodedPicture, list[Tensor]]:
    frame = engine.encode(case.image)
    pairs = zip(case.masks, case.styles, strict=True)
    return frame, engine.make_suffixes(frame, [RegionInput(m, style=s) for m, s in pairs])


@torch.inference_mode()
def run_unshared(engine: MllmEngine, case: ParityCase) -> ProbeOutput:
    """Caption region by region with the package's `generate`; compute logits without a cache."""
    frame, suffixes = _prepare_inputs(engine, case)
    model, stop = engine.model, engine.prompt.stop_ids
    prefix = make_prefix_input(model, engine.prompt, frame.grid, frame.image_tokens)
    limit = min(COMPARED_TOKENS, engine.info.max_new_tokens)
    said = generate.generate_per_region(
        model, prefix, suffixes, stop_ids=stop, max_new_tokens=limit
    )
    whole = [ids if len(ids) == limit else [*ids, stop[0]] for ids in said]
    longest = max(map(len, whole))
    logits = [
        _compute_logits(model, prefix, suffix, ids, longest)
        for suffix, ids in zip(suffixes, whole, strict=True)
    ]
    return ProbeOutput(whole, np.stack(logits))


def _compute_logits(
    model: Mllm, first: PromptOpening, suffix: Tensor, ids: Sequence[int], length: int
) -> npt.NDArray[np.float32]:
    """Return logits f32 [length, V] before each token of one caption, from one forward pass."""
    words = model.embed(torch.tensor([ids], device=suffix.device))
    full = torch.cat([first.x, suffix, words], dim=1)
    seen = torch.ones(full.shape[:2], dtype=torch.long, device=full.device)
    hidden = model(full, seen, first.extend_positions(full.shape[1]))
    logits = model.logits(hidden[0, -len(ids) - 1 : -1]).float().cpu().numpy()
    return np.pad(logits, ((0, length - len(ids)), (0, 0)))


@torch.inference_mode()
def run_shared(
    engine: MllmEngine, case: ParityCase, forced: Sequence[Sequence[int]]
) -> ProbeOutput:
    """Caption one batch after the shared prefix; compute logits of the forced captions."""
    frame, suffixes = _prepare_inputs(engine, case)
    stop, limit = engine.prompt.stop_ids, min(COMPARED_TOKENS, engine.info.max_new_tokens)
    prefix = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
    free = generate.generate_shared(
        engine.model, prefix, suffixes, stop_ids=stop, max_new_tokens=limit
    )
    ids = np.full((len(forced), max(map(len, forced))), EOS_ID, np.int64)
    for row, caption in enumerate(forced):
        ids[row, : len(caption)] = caption
    rows = engine.make_batch(frame)
    steps = [rows.start(suffixes), *(rows.step(column) for column in ids.T[:-1])]
    logits = torch.stack(steps, dim=1).cpu().numpy()
    return ProbeOutput([i if len(i) == limit else [*i, stop[0]] for i in free], logits)


def make_control(engine: MllmEngine) -> MllmEngine:
    """Return the negative control: the same prompts, with all mask modules from another seed. A
    mask encoder alone has little effect beside region tokens.
    """
    model = engine.model
    with torch.random.fork_rng():
        torch.manual_seed(7)
        if model.masks is None:
            _redraw_tower(model)
            return engine
        model.masks = MllmMaskEncoder(model.config.mask, width=model.width).to(model.device).eval()
        model.region_tokens = model.make_region_tokens()
    return engine


@torch.no_grad()
def _redraw_tower(model: Mllm) -> None:
    """Draw what reads the mask in the picture tower anew; where nothing does, the adapter."""
    layer = model.mask_convolution or getattr(model.base.model, model.family.projector)
    for weight in layer.parameters():
        weight.normal_(std=weight[0].numel() ** -0.5)


def _count_equal_alone(engine: MllmEngine, case: ParityCase) -> float:
    """Return the share of captions that stay the same if the region is captioned alone."""
    frame, suffixes = _prepare_inputs(engine, case)
    prefix = make_prefix_input(engine.model, engine.prompt, frame.grid, frame.image_tokens)
    stop = engine.prompt.stop_ids
    together = generate.generate_shared(
        engine.model, prefix, suffixes, stop_ids=stop, max_new_tokens=8
    )
    alone = [
        generate.generate_shared(engine.model, prefix, [one], stop_ids=stop, max_new_tokens=8)[0]
        for one in suffixes
    ]
    return sum(a == b for a, b in zip(together, alone, strict=True)) / len(alone)
