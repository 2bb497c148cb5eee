"""Assembles the captioner: `vision` runs once per image; `regions` and `lm` run for all of its
regions.

The order of the prompt is URECA's and makes it fast: [image tokens][region tokens][style][caption].
Image tokens come first and do not depend on the mask, so their keys and values serve every region
of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ureca.models.config import CaptionerConfig, VisionConfig
from ureca.models.nano.detector import Backbone, Detector
from ureca.models.nano.language import KV, LanguageModel
from ureca.models.nano.pyramid import Maps, Pyramid, Raw, make_colour_map
from ureca.models.nano.regions import MaskEncoder, RegionFeatures
from ureca.models.nano.trunk import Trunk, load_imagenet

_COARSE_CHANNELS = 320


class ImageProjector(nn.Module):
    """Converts the coarse map to image tokens: pixel shuffle (InternVL 2.5's), norm and two
    layers.
    """

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


def encode_frozen(trunk: Trunk, detector: Backbone | None, pixels: Tensor) -> Raw:
    """Tiles f32 [T, 3, S, S] -> the maps of the frozen layers, in the order of `Raw`."""
    seen = () if detector is None else detector(pixels)[1:]
    return (*trunk(pixels), make_colour_map(pixels), *seen)


class Captioner(nn.Module):
    """URECA-nano. Rows of `regions` and `run_lm` are ordered by image. The node passes one image at
    a time.
    """

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        self.trunk = Trunk()
        self.detector = Backbone() if config.regions.detector else None
        self.projector = ImageProjector(config.vision, width=width)
        self.mask_encoder = MaskEncoder(
            config.vision, num_mask_tokens=config.regions.num_mask_tokens, width=width
        )
        self.features = (
            RegionFeatures(config.regions, width=width) if config.regions.has_features else None
        )
        self.pyramid = Pyramid(config.regions)
        self.language = LanguageModel(config.language)

    def vision(self, pixels: Tensor) -> tuple[Tensor, Maps]:
        """Tiles of ONE image f32 [T, 3, S, S] -> (image tokens [1, T * p, d], maps)."""
        raw = self.encode_frozen(pixels)
        tokens = self.projector(raw[2])
        joined = tokens.reshape(1, tokens.shape[0] * tokens.shape[1], tokens.shape[2])
        return joined, self.pyramid(raw)

    def encode_frozen(self, pixels: Tensor) -> Raw:
        """Run the part of vision that does not change in training while the trunk is frozen."""
        return encode_frozen(self.trunk, self.detector, pixels)

    def regions(self, masks: Tensor, boxes: Tensor, maps: Maps) -> Tensor:
        """masks f32 [N, T, M, M] of 0/1, boxes f32 [N, 4] normalised xyxy -> region tokens [N, K,
        d].
        """
        tokens = self.mask_encoder(masks)
        if self.features is None:
            return tokens
        return torch.cat([tokens, self.features(masks, boxes, maps)], dim=1)

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of trunk, head and classifier."""
        classifier = getattr(self.features, "classifier", None)
        load_imagenet(self.trunk, self.pyramid.head, classifier)

    def load_detector(self, published: Detector) -> None:
        """Take backbone and neck of a detector, where the configuration has one."""
        if self.detector is not None and self.pyramid.sights is not None:
            self.detector.load_state_dict(published.backbone.state_dict())
            self.pyramid.sights.neck.load_state_dict(published.neck.state_dict())

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> [..., d]."""
        return self.language.embedding(ids)

    def run_lm(
        self, x: Tensor, prefix: tuple[KV, ...], own: tuple[KV, ...]
    ) -> tuple[Tensor, tuple[KV, ...]]:
        """Run one step of N rows: x [N, T, d] -> (logits of the last position [N, V], own KV grown
        by T).
        """
        hidden, grown = self.language(x, prefix, own, last=True)
        return self.language.logits(hidden[:, -1]), grown

    def score(
        self, x: Tensor, targets: Tensor, prefix: tuple[KV, ...], own: tuple[KV, ...]
    ) -> Tensor:
        """Given texts in one pass: x [N, Q, d], the next word of every position i64 [N, Q] -> its
        log-probability [N, Q].
        """
        hidden, _ = self.language(x, prefix, own)
        logits = self.language.logits(hidden)
        best = logits.amax(dim=-1, keepdim=True)
        # `logsumexp` would look for the largest once more, and slowly so in ONNX Runtime.
        spread = best[..., 0] + torch.log(torch.exp(logits - best).sum(dim=-1))
        return logits.gather(-1, targets[..., None])[..., 0] - spread

    def make_prefix(self, image_tokens: Tensor) -> tuple[KV, ...]:
        """Image tokens [B, P, d] -> the shared prefix KV, per layer [H, B, P, hd]."""
        rows = image_tokens.shape[0]
        return self.language(
            image_tokens, self.language.make_empty_kv(rows), self.language.make_empty_kv(rows)
        )[1]
