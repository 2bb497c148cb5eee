"""Estimates memory and time of FineCaption's stages: `ureca mllm plan --family finecaption`.

Computed from shapes, as `models/mllm/memory_estimate.py` does for URECA: nothing is measured. The
sizes of the encoders are ours (ViT-L, ConvNeXt-L, SAM-L); the paper gives none. Every row is a
region of a picture of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ureca.models.mllm.memory_estimate import (
    BaseShape,
    TrainingBudget,
    TrainingRecipe,
    estimate_activations,
    estimate_language_work,
    format_row,
)

_GIB = 2**30
_STATE_BYTES, _BF16 = 16, 2
SAMPLES = 167_164
"""CompositionCap's attribute texts without those of its test: 186,490 - 19,326."""
GRID_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """A vision transformer: CLIP's (without its last layer), or SAM's."""

    width: int
    layers: int
    patch: int
    tokens: int
    global_layers: int
    """Layers in which every token sees all others; the rest see `window` tokens."""
    window: int = 0
    neck: int = 0
    """Channels of SAM's neck."""

    @property
    def parameters(self) -> int:
        """Parameters; relative positions of windows are left out."""
        layers = self.layers * (12 * self.width**2 + 13 * self.width)
        positions = (3 * self.patch**2 + self.tokens) * self.width
        return layers + positions + self.neck * (self.width + 9 * self.neck)

    @property
    def work(self) -> int:
        """Floating-point operations of a forward pass."""
        seen = self.global_layers * self.tokens
        seen += (self.layers - self.global_layers) * self.window
        return 2 * self.parameters * self.tokens + 4 * self.tokens * seen * self.width

    @property
    def checkpoints(self) -> int:
        """Bytes kept for a backward pass: every layer's input, and one layer."""
        return _BF16 * self.tokens * self.width * (self.layers + 20)


@dataclass(frozen=True, kw_only=True)
class ConvNextShape:
    """ConvNeXt on the large picture. The package cannot recompute its layers."""

    widths: tuple[int, ...] = (192, 384, 768, 1536)
    depths: tuple[int, ...] = (3, 3, 27, 3)
    side_px: int = 1024

    @property
    def _stages(self) -> Iterator[tuple[int, int, int]]:
        """Cells, width and depth of each stage."""
        for level, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            yield (self.side_px // 4 // 2**level) ** 2, width, depth

    @property
    def parameters(self) -> int:
        """Parameters of all blocks and of the layers between the stages."""
        blocks = sum(depth * (8 * width**2 + 58 * width) for _, width, depth in self._stages)
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return blocks + sum(4 * a * b + 3 * a for a, b in pairs) + 50 * self.widths[0]

    @property
    def work(self) -> int:
        """Floating-point operations of a forward pass."""
        return sum(
            2 * cells * depth * (8 * width**2 + 49 * width) for cells, width, depth in self._stages
        )

    @property
    def checkpoints(self) -> int:
        """Bytes kept for a backward pass: all tensors of all blocks."""
        return sum(_BF16 * 12 * cells * width * depth for cells, width, depth in self._stages)


CLIP_L = VitShape(width=1024, layers=23, patch=14, tokens=577, global_layers=23)
SAM_L = VitShape(
    width=1024, layers=24, patch=16, tokens=4096, global_layers=4, window=196, neck=256
)
CONVNEXT_L = ConvNextShape()
_CHANNELS = 1024 + 1536 + 1024
"""Of one token: CLIP, ConvNeXt, four cells of SAM."""


def count_adapter(language: BaseShape) -> int:
    """Return the parameters of the adapter's two layers."""
    return (_CHANNELS + language.width + 2) * language.width


def estimate_tower_work(regions: int, *, shared: bool) -> float:
    """Return the operations of the three encoders for so many regions of a frame."""
    large = CONVNEXT_L.work + SAM_L.work
    return regions * CLIP_L.work + (1 if shared else regions) * large


def estimate_stage(language: BaseShape, recipe: TrainingRecipe, stage: str) -> TrainingBudget:
    """Return memory and time of a stage: `1`, `2`, `3`, or `3 (LoRA)` with adapters and the mask
    convolution. Frozen weights are bfloat16; what learns is float32, and bfloat16 where it is used.
    """
    adapter, mask = count_adapter(language), CLIP_L.patch**2 * CLIP_L.width
    encoders = CLIP_L.parameters + CONVNEXT_L.parameters + SAM_L.parameters
    whole = language.language + encoders + adapter + mask
    low = language.count_lora_parameters(recipe.rank) if stage == "3 (LoRA)" else 0
    learning = {"1": adapter, "2": mask, "3": whole, "3 (LoRA)": low + mask}[stage]
    row = replace(recipe, tiles=1, tokens_per_tile=GRID_TOKENS, mask_tokens=0)
    kept = {"1": 0, "2": CLIP_L.checkpoints, "3 (LoRA)": CLIP_L.checkpoints}
    kept["3"] = CLIP_L.checkpoints + CONVNEXT_L.checkpoints + SAM_L.checkpoints
    return TrainingBudget(
        parameters=whole + low,
        learning=learning,
        weights_gib=_BF16 * (whole + low) / _GIB,
        state_gib=_STATE_BYTES * learning / _GIB,
        activations_gib=estimate_activations(language, row)
        + recipe.rows_per_pass * kept[stage] / _GIB,
        hours=_estimate_hours(language, row, stage),
    )


def _estimate_hours(language: BaseShape, row: TrainingRecipe, stage: str) -> float:
    """Return the hours of all texts once: forward, recomputed, and backward; twice that backward
    where weights learn.
    """
    passes = {"1": 0, "2": 3, "3": 4, "3 (LoRA)": 3}[stage]
    large = 4 if stage == "3" else 1
    work = estimate_language_work(language, row) * (4 / 3 if stage == "3" else 1)
    work += (passes or 1) * CLIP_L.work + large * (CONVNEXT_L.work + SAM_L.work)
    return SAMPLES * work / (row.workers * row.peak_flops * row.share_of_peak) / 3600


def format_table(recipe: TrainingRecipe, languages: tuple[BaseShape, ...]) -> str:
    """Return the plan as Markdown: all stages of every language model, and what sharing saves."""
    head = (
        "| language model | stage | parameters | learning | weights GiB | state GiB | activations "
        "GiB | total GiB | hours an epoch |\n|---|---|---|---|---|---|---|---|---|"
    )
    rows = [
        format_row(shape.name, stage, estimate_stage(shape, recipe, stage))
        for shape in languages
        for stage in ("1", "2", "3", "3 (LoRA)")
    ]
    plain, shared = (estimate_tower_work(8, shared=way) for way in (False, True))
    said = f"the encoders for 8 regions of a frame: {plain / 1e12:.1f} TFLOP, shared "
    return "\n".join([head, *rows, "", f"{said}{shared / 1e12:.1f} ({plain / shared:.1f} times)"])
