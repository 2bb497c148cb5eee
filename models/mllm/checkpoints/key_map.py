"""Maps names and shapes of the published URECA weights.

The layout is InternVL's with remote code (`vision_model`, `mlp1`, `language_model`) plus
`mask_encoder` and `mask_linear`; the language model may contain adapters that were never merged.
All functions are pure: names to names, and tensors to tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ureca.errors import WeightsError

State = dict[str, Tensor]

ARCH_3 = ("mask_encoder.0.weight", "mask_encoder.2.weight", "mask_linear.weight")
ARCH_2 = ("mask_linear.0.weight", "concat_mask_encoder.0.weight", "concat_mask_linear.weight")

_ADAPTER = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")
_RENAMES = (
    (r"vision_model\.embeddings\.class_embedding", "model.vision_tower.embeddings.cls_token"),
    (
        r"vision_model\.embeddings\.patch_embedding\.",
        "model.vision_tower.embeddings.patch_embeddings.projection.",
    ),
    (
        r"vision_model\.embeddings\.position_embedding",
        "model.vision_tower.embeddings.position_embeddings",
    ),
    (r"vision_model\.encoder\.layers\.", "model.vision_tower.encoder.layer."),
    (r"mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"mlp1\.3\.", "model.multi_modal_projector.linear_2."),
    (r"language_model\.(lm_head|output)\.", "lm_head."),
    (r"language_model\.model\.tok_embeddings\.", "model.language_model.embed_tokens."),
    (r"language_model\.model\.", "model.language_model."),
)
_VISION_LAYER = (
    (".attn.proj.", ".attention.projection_layer."),
    (".attn.q_norm.", ".attention.q_norm."),
    (".attn.k_norm.", ".attention.k_norm."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
)
_INTERNLM2_LAYER = (
    (".attention.wo.", ".self_attn.o_proj."),
    (".attention_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".feed_forward.w1.", ".mlp.gate_proj."),
    (".feed_forward.w3.", ".mlp.up_proj."),
    (".feed_forward.w2.", ".mlp.down_proj."),
)


def check_arch(names: Mapping[str, object]) -> None:
    """Raise `WeightsError` unless the mask encoder is the shipped one ("arch 3")."""
    if all(name in names for name in ARCH_3):
        return
    if any(name in names for name in ARCH_2):
        raise WeightsError(
            "these weights have the mask encoder of the alternative architecture ('arch 2': "
            "mask_linear.{0,1}, concat_mask_*), whose published generate path leaves its image "
            "features out; only the shipped one ('arch 3': mask_encoder.{0,2}, mask_linear) runs"
        )
    absent = [name for name in ARCH_3 if name not in names]
    raise WeightsError(f"no URECA weights: {absent} are missing")


def merge_adapters(state: State, *, alpha_over_rank: float) -> State:
    """Merge adapters into their matrices and remove `peft`'s wrappers from the names.

    Merged weights are returned unchanged. Raises `WeightsError` for an incomplete adapter.
    """
    adapters: dict[str, State] = {}
    plain: State = {}
    for name, tensor in state.items():
        bare = name.replace(".base_model.model.", ".", 1)
        found = _ADAPTER.fullmatch(bare)
        if found is None:
            plain[bare.replace(".base_layer.", ".")] = tensor
        else:
            adapters.setdefault(found["layer"], {})[found["part"]] = tensor
    for layer, parts in adapters.items():
        weight = f"{layer}.weight"
        if set(parts) != {"A", "B"} or weight not in plain:
            raise WeightsError(f"the adapter of {layer} is not whole: found {sorted(parts)}")
        added = alpha_over_rank * (parts["B"].float() @ parts["A"].float())
        plain[weight] = (plain[weight].float() + added).to(plain[weight].dtype)
    return plain


def split_parts(state: State) -> tuple[State, State]:
    """Return (tensors of the base model, tensors of the mask encoder)."""
    mask = {n: t for n, t in state.items() if n.startswith(("mask_encoder.", "mask_linear."))}
    return {n: t for n, t in state.items() if n not in mask}, mask


def rename_tensors(state: State, *, heads: int, shared: int) -> State:
    """Return a base's tensors under the names of `InternVLForConditionalGeneration`.

    `heads` and `shared` are query and key-value heads of the language model; InternLM2 keeps all
    three projections in one matrix.
    """
    return dict(
        pair
        for name, tensor in state.items()
        for pair in _place_tensor(name, tensor, heads, shared)
    )


def _place_tensor(
    name: str, tensor: Tensor, heads: int, shared: int
) -> Iterator[tuple[str, Tensor]]:
    target = _rename(name)
    kinds = ("q_proj", "k_proj", "v_proj")
    if ".attn.qkv." in target:
        for kind, part in zip(kinds, tensor.chunk(3), strict=True):
            yield target.replace(".attn.qkv.", f".attention.{kind}."), part.clone()
    elif ".attention.wqkv." in target:
        for kind, part in zip(kinds, split_qkv(tensor, heads=heads, shared=shared), strict=True):
            yield target.replace(".attention.wqkv.", f".self_attn.{kind}."), part
    else:
        yield target, tensor


def split_qkv(wqkv: Tensor, *, heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split InternLM2's matrix [(H + 2 Hkv) * hd, d]: per key-value head its queries, key and
    value.
    """
    group = heads // shared
    rows = wqkv.unflatten(0, (shared, group + 2, -1))
    query, key, value = rows[:, :group], rows[:, group], rows[:, group + 1]
    return query.flatten(0, 2), key.flatten(0, 1).clone(), value.flatten(0, 1).clone()


def fill(base: torch.nn.Module, tensors: State) -> None:
    """Load exactly these tensors. Raises `WeightsError` with the first names that do not match."""
    own = base.state_dict()
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
    if missing or unknown or shapes:
        raise WeightsError(
            f"the weights do not fit their configuration: missing {missing[:3]}, unknown "
            f"{unknown[:3]}, of another shape {shapes[:3]}"
        )
    base.load_state_dict(tensors)


def _rename(name: str) -> str:
    for pattern, target in _RENAMES:
        found = re.match(pattern, name)
        if found is not None:
            name = target + name[found.end() :]
            break
    table = _VISION_LAYER if name.startswith("model.vision_tower.") else _INTERNLM2_LAYER
    for old, new in table:
        name = name.replace(old, new)
    return name
