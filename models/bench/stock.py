"""Runs the captioner's own weights in a stock causal model of `transformers`, one `generate` per
region, as a user would write it.

The language model is a Llama except for its cache, so its weights fit the stock class and both must
give the same captions. The methods differ in what they share, not in what they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ureca.datatypes import RegionInput
from ureca.extras import require
from ureca.models.bench.scenes import BenchScene
from ureca.models.preprocess import choose_grid, make_pixel_tiles
from ureca.models.runtime.region_inputs import make_region_arrays
from ureca.models.tokenizer import EOS_ID, PAD_ID, Tokenizer

if TYPE_CHECKING:
    from ureca.models.nano.language import LanguageModel
    from ureca.models.nano.network import Captioner

EXTRA = "bench"


class StockModel:
    """Vision and region tokens in torch, then `generate`; float32 on the CPU."""

    def __init__(self, model: Captioner, tokenizer: Tokenizer) -> None:
        self._torch = require("torch", extra=EXTRA)
        package = require("transformers", extra=EXTRA)
        self._model, self._tokenizer = model.eval(), tokenizer
        self._language = make_llama(package, model.language)
        self.runtime = f"transformers {package.__version__}"

    def encode_prompts(self, scene: BenchScene, regions: Sequence[RegionInput]) -> Any:
        """Encode the image, and `regions` of it: f32 [N, P + K + 1, d]."""
        torch, vision = self._torch, self._model.config.vision
        height_px, width_px = scene.image.shape[:2]
        grid = choose_grid(width_px, height_px, tile_px=vision.tile_px, max_tiles=vision.max_tiles)
        arrays = make_region_arrays(regions, grid=grid, vision=vision)
        starts = torch.tensor([[Tokenizer.start_id(region.style)] for region in regions])
        with torch.inference_mode():
            pixels = torch.from_numpy(make_pixel_tiles(scene.image, grid, vision))
            image, maps = self._model.vision(pixels)
            masks, boxes = torch.from_numpy(arrays.masks), torch.from_numpy(arrays.boxes)
            told = [self._model.regions(masks, boxes, maps), self._model.embed(starts)]
            return torch.cat([image.expand(len(regions), -1, -1), *told], dim=1)

    def generate(self, prompt: Any, region: RegionInput) -> tuple[str, int]:
        """Caption one prompt f32 [P + K + 1, d]: the text, and its number of tokens."""
        torch = self._torch
        with torch.inference_mode():
            ids = self._language.generate(
                inputs_embeds=prompt[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=region.max_new_tokens,
                do_sample=False,
                eos_token_id=EOS_ID,
                pad_token_id=PAD_ID,
            )[0].tolist()
        said = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
        return self._tokenizer.decode(said), len(said)


def make_llama(package: Any, language: LanguageModel) -> Any:
    """Load the weights into `LlamaForCausalLM` of `package` (`transformers`), ready to generate."""
    config = language.config
    stock = package.LlamaForCausalLM(
        package.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.ff_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    weights = rename_for_llama(language)
    stock.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    return stock.eval()


def rename_for_llama(language: LanguageModel) -> dict[str, Any]:
    """Return the language model's weights under Llama's names."""
    named = {
        "model.embed_tokens.weight": language.embedding.weight,
        "model.norm.weight": language.norm.weight,
    }
    for layer, block in enumerate(language.blocks):
        for name, weight in _rename_block(block).items():
            named[f"model.layers.{layer}.{name}.weight"] = weight
    return named


def _rename_block(block: Any) -> dict[str, Any]:
    query, key, value = block.attention.qkv.weight.chunk(3)
    gate, up = block.gate_up.weight.chunk(2)
    return {
        "input_layernorm": block.norm_attention.weight,
        "self_attn.q_proj": query,
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.o_proj": block.attention.out.weight,
        "post_attention_layernorm": block.norm_ff.weight,
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": block.down.weight,
    }
