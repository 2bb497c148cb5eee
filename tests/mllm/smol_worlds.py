"""A tiny random Llama and a tiny random nano: what `ureca mllm join` puts together."""

from __future__ import annotations

import torch
from worlds import scaled, words_json


def llama(folder, *, width=32, layers=2, vocab=400):
    """A Llama in everything but size, saved by `save_pretrained`, and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = scaled(LlamaForCausalLM(config))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words_json(), encoding="utf8")
    return folder


def nano(folder):
    """A checkpoint of a tiny nano, its trunk in it, with weights that tell regions apart."""
    from ureca.models.config import make_tiny_config
    from ureca.models.nano.checkpoint import save_checkpoint
    from ureca.models.nano.network import Captioner

    torch.manual_seed(1)
    model = Captioner(make_tiny_config())
    save_checkpoint(folder, model, tokenizer_json="{}")
    return folder


def gguf(path, model, *, tokens, merges):
    """A Llama as llama.cpp writes it: matrices in Q4_1, its words inside. Returns the tensors that
    a reader should find, by the names of `transformers`.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    config = model.config
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types([3 if t.startswith("<") and len(t) > 1 else 1 for t in tokens])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    found = {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.float().numpy()
        leaf = name.split(".")[-2]
        if values.ndim == 1:
            writer.add_tensor(_gguf_name(name), values)
            found[name] = values
            continue
        n = heads.get(leaf)
        rows = _interleaved(values, n) if n else values
        kind = GGMLQuantizationType.Q4_1
        packed = quants.quantize(np.ascontiguousarray(rows), kind)
        writer.add_tensor(_gguf_name(name), packed, raw_dtype=kind)
        back = quants.dequantize(packed, kind)
        found[name] = _interleaved(back, n, back=True) if n else back
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def _interleaved(rows, heads, *, back=False):
    """llama.cpp's order of the rows of q and k: pairs of the rotation lie side by side."""
    half = rows.shape[0] // heads // 2
    shape = (heads, half, 2) if back else (heads, 2, half)
    return rows.reshape(*shape, -1).swapaxes(1, 2).reshape(rows.shape)


def _gguf_name(name):
    leafs = {
        "embed_tokens": "token_embd",
        "norm": "output_norm",
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    parts = name.split(".")
    block = f"blk.{parts[2]}." if parts[1] == "layers" else ""
    return f"{block}{leafs[parts[-2]]}.weight"
