"""The assembled captioner: `vision` once per picture, `regions` and `lm` for all of its regions.

The order of the prompt is URECA's and is the key to speed: [image tokens][region
tokens][style][caption]. Image tokens come first and do not depend on the mask, so their keys and
values serve every region of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ureca.models.config import CaptionerConfig, VisionConfig
from ureca.models.nano.language import KV, LanguageModel
from ureca.models.nano.pyramid import Maps, Pyramid, Raw, colour_map
from ureca.models.nano.regions import MaskEncoder, RegionFeatures
from ureca.models.nano.trunk import Trunk, load_imagenet

_COARSE_CHANNELS = 320


class ImageProjector(nn.Module):
    """Coarse map to image tokens: pixel shuffle (InternVL 2.5's), norm and two layers."""

    def __init__(self, vision: VisionConfig, *, width: int) -> None:
        super().__init__()
        self.factor = vision.pixel_shuffle
        merged = _COARSE_CHANNELS * self.factor**2
        self.mlp = nn.Sequential(
            nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, coarse: Tensor) -> Tensor:
        """[T, 320, h, w] -> [T, h * w / factor^2, d]."""
        return self.mlp(
            nn.functional.pixel_unshuffle(coarse, self.factor).flatten(2).transpose(1, 2)
        )


class Captioner(nn.Module):
    """URECA-nano. Rows of `regions` and `lm` are ordered by picture; the node has one picture at a
    time.
    """

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        self.trunk = Trunk()
        self.projector = ImageProjector(config.vision, width=width)
        self.mask_encoder = MaskEncoder(
            config.vision, num_mask_tokens=config.regions.num_mask_tokens, width=width
        )
        self.features = (
            RegionFeatures(config.regions, width=width) if config.regions.has_features else None
        )
        self.pyramid = Pyramid(config.regions.fused_channels)
        self.language = LanguageModel(config.language)

    def vision(self, pixels: Tensor) -> tuple[Tensor, Maps]:
        """Tiles of ONE picture f32 [T, 3, S, S] -> (image tokens [1, T * p, d], maps)."""
        raw = self.see(pixels)
        tokens = self.projector(raw[2])
        joined = tokens.reshape(1, tokens.shape[0] * tokens.shape[1], tokens.shape[2])
        return joined, self.pyramid(raw)

    def see(self, pixels: Tensor) -> Raw:
        """Everything that does not depend on what training changes when the trunk is frozen."""
        fine, middle, coarse = self.trunk(pixels)
        return fine, middle, coarse, colour_map(pixels)

    def regions(self, masks: Tensor, boxes: Tensor, maps: Maps) -> Tensor:
        """masks f32 [N, T, M, M] of 0/1, boxes f32 [N, 4] normalised xyxy -> region tokens [N, K,
        d].
        """
        tokens = self.mask_encoder(masks)
        if self.features is None:
            return tokens
        return torch.cat([tokens, self.features(masks, boxes, maps)], dim=1)

    def load_imagenet(self) -> None:
        """Start everything that came from ImageNet from there: trunk, head and classifier."""
        classifier = getattr(self.features, "classifier", None)
        load_imagenet(self.trunk, self.pyramid.head, classifier)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> [..., d]."""
        return self.language.embedding(ids)

    def lm(
        self, x: Tensor, prefix: tuple[KV, ...], own: tuple[KV, ...]
    ) -> tuple[Tensor, tuple[KV, ...]]:
        """One step of N rows: x [N, T, d] -> (logits of the last position [N, V], own KV grown by
        T).
        """
        hidden, grown = self.language(x, prefix, own, last=True)
        return self.language.logits(hidden[:, -1]), grown

    def prefix(self, image_tokens: Tensor) -> tuple[KV, ...]:
        """Image tokens [B, P, d] -> the shared prefix KV, per layer [H, B, P, hd]."""
        rows = image_tokens.shape[0]
        return self.language(image_tokens, self.language.empty(rows), self.language.empty(rows))[1]
