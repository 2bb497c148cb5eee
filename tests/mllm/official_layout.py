"""A random checkpoint in the published layout, and its forward pass straight from those tensors.

The forward pass is written here from the description, in plain functions over the official names.
It shares no code with the converter: both can only agree when every tensor went where it belongs.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

TILE, PATCH, TOKENS = 56, 14, 4
VISION = {"width": 16, "heads": 2, "layers": 2, "ff": 24}
LANGUAGE = {"width": 24, "heads": 4, "shared": 2, "layers": 2, "ff": 40, "vocab": 360}
MASKS = 3
RANK, EPS = 2, 1e-6
HEAD = LANGUAGE["width"] // LANGUAGE["heads"]


def config(kind: str) -> dict:
    vision = {
        "hidden_size": VISION["width"],
        "num_hidden_layers": VISION["layers"],
        "num_attention_heads": VISION["heads"],
        "intermediate_size": VISION["ff"],
        "image_size": TILE,
        "patch_size": PATCH,
        "qkv_bias": True,
        "qk_normalization": False,
        "norm_type": "layer_norm",
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
    }
    language = {
        "model_type": kind,
        "hidden_size": LANGUAGE["width"],
        "intermediate_size": LANGUAGE["ff"],
        "num_hidden_layers": LANGUAGE["layers"],
        "num_attention_heads": LANGUAGE["heads"],
        "num_key_value_heads": LANGUAGE["shared"],
        "max_position_embeddings": 512,
        "rms_norm_eps": EPS,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "vocab_size": 1,  # stale, as after a resize
    }
    return {
        "model_type": "internvl_chat",
        "vision_config": vision,
        "llm_config": language,
        "num_mask_token": MASKS,
        "dynamic_mask_size": True,
        "mask_min_dynamic_patch": [1],  # its stray comma
        "max_dynamic_patch": 2,
        "template": "mug-cap",
        "force_image_size": TILE,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
    }


def random_state(kind: str, *, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def new(*shape, scale=0.3):
        return torch.randn(*shape, generator=draw) * scale

    v, w = VISION["width"], LANGUAGE["width"]
    patches = (TILE // PATCH) ** 2
    state = {
        "vision_model.embeddings.class_embedding": new(1, 1, v),
        "vision_model.embeddings.patch_embedding.weight": new(v, 3, PATCH, PATCH, scale=0.05),
        "vision_model.embeddings.patch_embedding.bias": new(v),
        "vision_model.embeddings.position_embedding": new(1, patches + 1, v),
        "mlp1.0.weight": 1 + new(4 * v),
        "mlp1.0.bias": new(4 * v),
        "mlp1.1.weight": new(w, 4 * v),
        "mlp1.1.bias": new(w),
        "mlp1.3.weight": new(w, w),
        "mlp1.3.bias": new(w),
        "mask_encoder.0.weight": new(MASKS, 1, 3, 3),
        "mask_encoder.0.bias": new(MASKS),
        "mask_encoder.2.weight": new(MASKS, MASKS, 3, 3),
        "mask_encoder.2.bias": new(MASKS),
        "mask_linear.weight": new(w, (TILE // 4) ** 2, scale=0.01),
        "mask_linear.bias": new(w),
    }
    for n in range(VISION["layers"]):
        at = f"vision_model.encoder.layers.{n}."
        for name, shape in {
            "attn.qkv": (3 * v, v),
            "attn.proj": (v, v),
            "mlp.fc1": (VISION["ff"], v),
            "mlp.fc2": (v, VISION["ff"]),
        }.items():
            state[f"{at}{name}.weight"], state[f"{at}{name}.bias"] = new(*shape), new(shape[0])
        for name in ("norm1", "norm2"):
            state[f"{at}{name}.weight"], state[f"{at}{name}.bias"] = 1 + new(v), new(v)
        state[f"{at}ls1"], state[f"{at}ls2"] = new(v), new(v)
    for name, shape in language_shapes(kind).items():
        state[f"language_model.{name}"] = (1 if "norm" in name else 0) + new(*shape)
    return state


def language_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    w, ff, vocab = LANGUAGE["width"], LANGUAGE["ff"], LANGUAGE["vocab"]
    q, kv = w, LANGUAGE["shared"] * HEAD
    if kind == "internlm2":
        shapes = {"model.tok_embeddings.weight": (vocab, w), "output.weight": (vocab, w)}
        layer = {
            "attention.wqkv.weight": (q + 2 * kv, w),
            "attention.wo.weight": (w, q),
            "attention_norm.weight": (w,),
            "ffn_norm.weight": (w,),
            "feed_forward.w1.weight": (ff, w),
            "feed_forward.w3.weight": (ff, w),
            "feed_forward.w2.weight": (w, ff),
        }
    else:
        shapes = {"model.embed_tokens.weight": (vocab, w), "lm_head.weight": (vocab, w)}
        layer = {
            "self_attn.q_proj.weight": (q, w),
            "self_attn.k_proj.weight": (kv, w),
            "self_attn.v_proj.weight": (kv, w),
            "self_attn.q_proj.bias": (q,),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (w, q),
            "input_layernorm.weight": (w,),
            "post_attention_layernorm.weight": (w,),
            "mlp.gate_proj.weight": (ff, w),
            "mlp.up_proj.weight": (ff, w),
            "mlp.down_proj.weight": (w, ff),
        }
    shapes["model.norm.weight"] = (w,)
    for n in range(LANGUAGE["layers"]):
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def unmerged(state, *, seed: int = 1) -> dict[str, torch.Tensor]:
    """The same layout with adapters on every matrix of the language model's layers."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in state.items():
        if not name.startswith("language_model."):
            found[name] = tensor
            continue
        inner = name.removeprefix("language_model.")
        layer = f"language_model.base_model.model.{inner}".removesuffix(".weight")
        if ".layers." in inner and tensor.ndim == 2:
            found[f"{layer}.base_layer.weight"] = tensor
            low = torch.randn(RANK, tensor.shape[1], generator=draw) * 0.2
            found[f"{layer}.lora_A.default.weight"] = low
            high = torch.randn(tensor.shape[0], RANK, generator=draw) * 0.2
            found[f"{layer}.lora_B.default.weight"] = high
        else:
            bias = ".layers." in inner and inner.endswith(".bias")
            wrapped = f"{layer.removesuffix('.bias')}.base_layer.bias"
            plain = f"language_model.base_model.model.{inner}"
            found[wrapped if bias else plain] = tensor
    return found


def write(folder, kind: str, state, words_json: str, *, as_bin: bool = False) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(kind)), encoding="utf8")
    (folder / "tokenizer.json").write_text(words_json, encoding="utf8")
    if as_bin:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = sorted(state)
    half = len(names) // 2
    for n, part in enumerate((names[:half], names[half:]), 1):
        tensors = {name: state[name].contiguous() for name in part}
        save_file(tensors, folder / f"model-0000{n}-of-00002.safetensors")


class Reference:
    """The published forward pass over its own names; adapters stay beside their matrices."""

    def __init__(self, kind: str, state, *, alpha_over_rank: float = 2.0) -> None:
        self.kind, self.state, self.scale = kind, state, alpha_over_rank

    def _get(self, name: str):
        if name in self.state:
            return self.state[name]
        inner = name.removeprefix("language_model.")
        layer, _, leaf = inner.rpartition(".")
        at = "language_model.base_model.model."
        return self.state.get(f"{at}{inner}", self.state.get(f"{at}{layer}.base_layer.{leaf}"))

    def _linear(self, x, name: str):
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        answer = F.linear(x, weight, bias)
        at = name.replace("language_model.", "language_model.base_model.model.", 1)
        low = self.state.get(f"{at}.lora_A.default.weight")
        if low is not None:
            high = self.state[f"{at}.lora_B.default.weight"]
            answer = answer + self.scale * F.linear(F.linear(x, low), high)
        return answer

    def see(self, tiles):
        v, heads = VISION["width"], VISION["heads"]
        get = self._get
        x = F.conv2d(
            tiles,
            get("vision_model.embeddings.patch_embedding.weight"),
            get("vision_model.embeddings.patch_embedding.bias"),
            stride=PATCH,
        )
        x = x.flatten(2).transpose(1, 2)
        first = get("vision_model.embeddings.class_embedding").expand(len(x), 1, v)
        x = torch.cat([first, x], 1) + get("vision_model.embeddings.position_embedding")
        for n in range(VISION["layers"]):
            at = f"vision_model.encoder.layers.{n}."
            h = F.layer_norm(x, (v,), get(f"{at}norm1.weight"), get(f"{at}norm1.bias"), EPS)
            qkv = self._linear(h, f"{at}attn.qkv").unflatten(-1, (3, heads, v // heads))
            q, k, val = qkv.permute(2, 0, 3, 1, 4)
            mixed = torch.softmax(q @ k.transpose(-1, -2) * (v // heads) ** -0.5, -1) @ val
            mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{at}attn.proj")
            x = x + mixed * get(f"{at}ls1")
            h = F.layer_norm(x, (v,), get(f"{at}norm2.weight"), get(f"{at}norm2.bias"), EPS)
            h = self._linear(F.gelu(self._linear(h, f"{at}mlp.fc1")), f"{at}mlp.fc2")
            x = x + h * get(f"{at}ls2")
        return self._project(x[:, 1:])

    def _project(self, x):
        side = TILE // PATCH
        x = x.unflatten(1, (side, side))
        n, w, h, c = x.shape  # InternVL's pixel shuffle, version 2
        x = x.reshape(n, w, h // 2, c * 2).permute(0, 2, 1, 3)
        x = x.reshape(n, h // 2, w // 2, c * 4).permute(0, 2, 1, 3).flatten(1, 2)
        x = F.layer_norm(x, (c * 4,), self._get("mlp1.0.weight"), self._get("mlp1.0.bias"))
        return self._linear(F.gelu(self._linear(x, "mlp1.1")), "mlp1.3")

    def masks(self, tiles_255):
        get = self._get
        x = F.conv2d(
            tiles_255[:, None], get("mask_encoder.0.weight"), get("mask_encoder.0.bias"), 2, 1
        )
        x = F.conv2d(
            x.relu(), get("mask_encoder.2.weight"), get("mask_encoder.2.bias"), 2, 1
        ).relu()
        return self._linear(x.flatten(2), "mask_linear").flatten(0, 1)

    def embed(self, ids):
        leaf = "tok_embeddings" if self.kind == "internlm2" else "embed_tokens"
        return self._get(f"language_model.model.{leaf}.weight")[ids]

    def logits(self, x):
        """x [L, d] -> logits [L, V], causal."""
        for n in range(LANGUAGE["layers"]):
            at = f"language_model.model.layers.{n}."
            names = (
                (
                    "attention_norm",
                    "attention.wo",
                    "ffn_norm",
                    "feed_forward.w1",
                    "feed_forward.w3",
                    "feed_forward.w2",
                )
                if self.kind == "internlm2"
                else (
                    "input_layernorm",
                    "self_attn.o_proj",
                    "post_attention_layernorm",
                    "mlp.gate_proj",
                    "mlp.up_proj",
                    "mlp.down_proj",
                )
            )
            norm, out, norm_ff, gate, up, down = (at + name for name in names)
            q, k, v = self._qkv(_rms(x, self._get(f"{norm}.weight")), at)
            x = x + self._linear(_attend(q, k, v), out)
            h = _rms(x, self._get(f"{norm_ff}.weight"))
            h = F.silu(self._linear(h, gate)) * self._linear(h, up)
            x = x + self._linear(h, down)
        x = _rms(x, self._get("language_model.model.norm.weight"))
        head = "output" if self.kind == "internlm2" else "lm_head"
        return F.linear(x, self._get(f"language_model.{head}.weight"))

    def _qkv(self, x, at):
        shared, group = LANGUAGE["shared"], LANGUAGE["heads"] // LANGUAGE["shared"]
        if self.kind == "internlm2":
            fused = self._linear(x, f"{at}attention.wqkv").unflatten(-1, (shared, group + 2, HEAD))
            return fused[:, :, :group].flatten(1, 2), fused[:, :, -2], fused[:, :, -1]
        names = ("q_proj", "k_proj", "v_proj")
        return [self._linear(x, f"{at}self_attn.{n}").unflatten(-1, (-1, HEAD)) for n in names]


def _rms(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def _rotated(x):
    """x [L, H, hd]: rotary positions, halves rotated."""
    at = torch.arange(len(x))[:, None]
    angle = at / 1e6 ** (torch.arange(0, HEAD, 2) / HEAD)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


def _attend(q, k, v):
    group = q.shape[1] // k.shape[1]
    q, k = _rotated(q).transpose(0, 1), _rotated(k).repeat_interleave(group, 1).transpose(0, 1)
    v = v.repeat_interleave(group, 1).transpose(0, 1)
    scores = q @ k.transpose(-1, -2) * HEAD**-0.5
    scores = scores + torch.full_like(scores, float("-inf")).triu(1)
    return (torch.softmax(scores, -1) @ v).transpose(0, 1).flatten(1)
