"""Estimates memory and time of training, and sizes of an export to graphs: `ureca mllm plan`. The
figures are computed, not measured.

Parameters are counted from the shapes of the published configurations. Memory of one worker is
weights + trained parameters (float32 weight, gradient and two moments) + activations: with gradient
checkpointing one layer's input for every layer, one layer recomputed, and the logits of the answer.
Time is floating-point work over an assumed share of the device's peak. Both are for planning:
measured memory is higher by the allocator's slack.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

_GIB = 2**30
_SAMPLES = 138_152
"""Regions of URECA's training set."""
_STATE_BYTES = 16
"""Of a learning parameter: float32 weight, gradient, and two moments of AdamW."""
_LAYER_FACTOR = 20
"""Numbers per token and unit of width that one recomputed layer keeps, attention by flash."""
_ANSWER_TOKENS = 128
_PROMPT_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class BaseShape:
    """The sizes that determine the cost of a base model; `heads` and `shared` are query and
    key-value heads.
    """

    name: str
    width: int
    layers: int
    heads: int
    shared: int
    head_dim: int
    ff_width: int
    vocab: int
    tied: bool = False
    vision: int = 304_000_000
    """Parameters of InternViT-300M."""
    vision_width: int = 1024

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the linear layers of one block, which may have adapters."""
        query, key = self.heads * self.head_dim, self.shared * self.head_dim
        return {
            "q_proj": (query, self.width),
            "k_proj": (key, self.width),
            "v_proj": (key, self.width),
            "o_proj": (self.width, query),
            "gate_proj": (self.ff_width, self.width),
            "up_proj": (self.ff_width, self.width),
            "down_proj": (self.width, self.ff_width),
        }

    @property
    def block(self) -> int:
        """Parameters of one block's matrices."""
        return sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def language(self) -> int:
        """Parameters of the language model; norms and biases are left out (below 0.1 %)."""
        return self.layers * self.block + (1 if self.tied else 2) * self.vocab * self.width

    @property
    def projector(self) -> int:
        """Parameters of the image projector."""
        return 4 * self.vision_width * self.width + self.width**2

    def count_lora_parameters(self, rank: int) -> int:
        """Parameters of adapters on every matrix."""
        return self.layers * rank * sum(a + b for a, b in self.matrices.values())

    def count_mask_parameters(self, tokens: int, *, side_px: int = 448) -> int:
        """Parameters of the mask encoder: two convolutions and the shared linear layer."""
        convolutions = 10 * tokens + 9 * tokens**2 + tokens
        return convolutions + (side_px // 4) ** 2 * self.width + self.width


SHAPES = (
    BaseShape(
        name="1B",
        width=896,
        layers=24,
        heads=14,
        shared=2,
        head_dim=64,
        ff_width=4864,
        vocab=151_674,
    ),
    BaseShape(
        name="2B",
        width=2048,
        layers=24,
        heads=16,
        shared=8,
        head_dim=128,
        ff_width=8192,
        vocab=92_553,
    ),
    BaseShape(
        name="8B",
        width=4096,
        layers=32,
        heads=32,
        shared=8,
        head_dim=128,
        ff_width=14_336,
        vocab=92_553,
    ),
)
"""InternVL 2.5 over Qwen2.5-0.5B, InternLM2.5-1.8B and InternLM2.5-7B."""
LLAMA_8B = replace(SHAPES[2], vocab=128_256)
"""Llama 3.1 8B."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """The training settings of one worker."""

    stage: int
    rows_per_pass: int = 4
    tiles: int = 7
    tokens_per_tile: int = 256
    mask_tokens: int = 16
    rank: int = 128
    peak_flops: float = 312e12
    """An A100's bfloat16 peak."""
    share_of_peak: float = 0.4
    workers: int = 4

    @property
    def length(self) -> int:
        """Tokens of one row: picture, mask, prompt and answer."""
        picture = self.tiles * (self.tokens_per_tile + self.mask_tokens)
        return picture + _PROMPT_TOKENS + _ANSWER_TOKENS


@dataclass(frozen=True, kw_only=True)
class TrainingBudget:
    """One worker's memory in GiB, and hours of an epoch over URECA's training set."""

    parameters: int
    learning: int
    weights_gib: float
    state_gib: float
    activations_gib: float
    hours: float

    @property
    def total_gib(self) -> float:
        """All memory of one worker."""
        return self.weights_gib + self.state_gib + self.activations_gib


def estimate_budget(shape: BaseShape, recipe: TrainingRecipe) -> TrainingBudget:
    """Return memory and time of one stage. Frozen weights are bfloat16; every worker holds all of
    them.
    """
    frozen = shape.language + shape.vision + shape.projector
    learning = (
        shape.count_mask_parameters(recipe.mask_tokens)
        if recipe.stage == 1
        else shape.count_lora_parameters(recipe.rank)
    )
    idle = shape.count_mask_parameters(recipe.mask_tokens) if recipe.stage == 2 else 0
    return TrainingBudget(
        parameters=frozen + learning + idle,
        learning=learning,
        weights_gib=2 * (frozen + 2 * idle) / _GIB,
        state_gib=_STATE_BYTES * learning / _GIB,
        activations_gib=estimate_activations(shape, recipe),
        hours=_estimate_hours(shape, recipe),
    )


def estimate_activations(shape: BaseShape, recipe: TrainingRecipe) -> float:
    """Return the GiB of the language model's activations in one pass."""
    tokens = recipe.rows_per_pass * recipe.length
    checkpoints = tokens * shape.width * shape.layers * 2
    layer = tokens * (_LAYER_FACTOR * shape.width + 3 * shape.ff_width) * 2
    logits = recipe.rows_per_pass * _ANSWER_TOKENS * shape.vocab * 4 * 2
    return (checkpoints + layer + logits) / _GIB


def estimate_language_work(shape: BaseShape, recipe: TrainingRecipe) -> float:
    """Return the operations of one row in a frozen language model: forward, recomputed forward, and
    the backward pass to the inputs.
    """
    passes = 3
    attention = 2 * recipe.length * shape.heads * shape.head_dim * shape.layers
    return passes * (2 * (shape.layers * shape.block) + attention) * recipe.length


def _estimate_hours(shape: BaseShape, recipe: TrainingRecipe) -> float:
    """Return the hours of an epoch; the image encoder runs forward only."""
    patches = 4 * recipe.tokens_per_tile * recipe.tiles
    flops = estimate_language_work(shape, recipe) + 2 * shape.vision * patches
    return _SAMPLES * flops / (recipe.workers * recipe.peak_flops * recipe.share_of_peak) / 3600


_EXPORTED = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5 + (4 + 0.5) / 32}
"""Bytes of a weight of the language model in `lm`; a block of 32 in int4 has a scale and a zero."""


@dataclass(frozen=True, kw_only=True)
class ExportBudget:
    """Files of graphs and memory of writing them, in GiB."""

    files_gib: float
    memory_gib: float
    twice_gib: float
    """What a second set of the stored weights would need."""


def estimate_export(shape: BaseShape, kind: str) -> ExportBudget:
    """Return the sizes of an export to graphs (`export/language_model`) of a bfloat16 checkpoint.

    In memory are the weights as they are stored, and the largest one, which is the output layer,
    in float32 and as it is written.
    """
    largest, blocks = shape.vocab * shape.width, shape.layers * shape.block
    other = 4 if kind == "fp32" else 2
    output = 1.0 if kind == "int4" else _EXPORTED[kind]
    files = blocks * _EXPORTED[kind] + largest * (output + other)
    files += (shape.vision + shape.projector) * other
    stored = 2 * (shape.language + shape.vision + shape.projector)
    return ExportBudget(
        files_gib=files / _GIB,
        memory_gib=(stored + (4 + max(output, 4.0 * (kind == "fp32"))) * largest) / _GIB,
        twice_gib=2 * stored / _GIB,
    )


def format_export_table() -> str:
    """Return the plan of exports to graphs as Markdown."""
    head = (
        "| base | precision of lm | files GiB | memory GiB, weights once | twice |\n"
        "|---|---|---|---|---|"
    )
    rows = []
    for shape in SHAPES:
        for kind in _EXPORTED:
            found = estimate_export(shape, kind)
            numbers = (found.files_gib, found.memory_gib, found.twice_gib)
            rows.append(f"| {shape.name} | {kind} | {' | '.join(f'{n:.1f}' for n in numbers)} |")
    return "\n".join([head, *rows])


def format_table(recipe: TrainingRecipe = TrainingRecipe(stage=1)) -> str:
    """Return the plan as Markdown, both stages of every shape."""
    head = (
        "| base | stage | parameters | learning | weights GiB | state GiB | activations GiB | "
        "total GiB | hours an epoch |\n|---|---|---|---|---|---|---|---|---|"
    )
    rows = [
        format_row(shape.name, stage, estimate_budget(shape, replace(recipe, stage=stage)))
        for shape in SHAPES
        for stage in (1, 2)
    ]
    return "\n".join([head, *rows])


def format_row(name: str, stage: int | str, found: TrainingBudget) -> str:
    """Return a budget as a row of a table."""
    numbers = (found.weights_gib, found.state_gib, found.activations_gib, found.total_gib)
    cells = " | ".join(f"{number:.1f}" for number in numbers)
    sizes = f"{found.parameters / 1e9:.2f} G | {found.learning / 1e6:.1f} M"
    return f"| {name} | {stage} | {sizes} | {cells} | {found.hours:.1f} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ureca mllm plan`."""
    parser = argparse.ArgumentParser(
        prog="ureca mllm plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  ureca mllm plan --workers 8 --rows-per-pass 2\n"
        "  ureca mllm plan --family finecaption\n"
        "  ureca mllm pix2cap plan\n"
        "  ureca mllm unires plan",
    )
    add = parser.add_argument
    known = TrainingRecipe(stage=1)
    add("--family", choices=("ureca", "finecaption"), default="ureca", help="[%(default)s]")
    add("--workers", type=int, default=known.workers, help="devices (%(default)s)")
    add("--rows-per-pass", type=int, default=known.rows_per_pass, help="(%(default)s)")
    add("--peak-tflops", type=float, default=known.peak_flops / 1e12, help="(%(default)s)")
    add("--share-of-peak", type=float, default=known.share_of_peak, help="(%(default)s)")
    options = parser.parse_args(argv)
    recipe = replace(
        known,
        workers=options.workers,
        rows_per_pass=options.rows_per_pass,
        peak_flops=options.peak_tflops * 1e12,
        share_of_peak=options.share_of_peak,
    )
    sys.stdout.write(f"computed, not measured\n\n{_plan(options.family, recipe)}\n")
    return 0


def _plan(family: str, recipe: TrainingRecipe) -> str:
    if family == "ureca":
        return f"{format_table(recipe)}\n\nexport to graphs:\n\n{format_export_table()}"
    from ureca.models.mllm.finecaption import memory

    return memory.format_table(recipe, (SHAPES[0], LLAMA_8B))
