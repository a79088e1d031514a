"""INP-Former (Luo et al. 2025, arXiv:2503.02424): a decoder rebuilds features from prototypes of the image itself.

Model and loss are anomalib's, which always downloads the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors.anomalib_parts import INP_FORMER_TRAINING, InpFormerModel
from raybench.detectors.settings import InpFormerSettings
from raybench.detectors.transformer_decoder import TransformerDecoder
from raybench.detectors.weights.catalog import PATCH


class InpFormer(TransformerDecoder[InpFormerSettings]):
    """INP-Former."""

    name = "inp_former"
    parts = ("bottleneck", "decoder", "aggregation", "prototype_token")
    recipe = INP_FORMER_TRAINING

    def model(self, timm_name: str) -> nn.Module:
        return Rebuilder(timm_name, self.settings.prototypes, remove_class_token=True)

    def loss(self, model: Any, images: Tensor, step: int) -> Tensor:
        value: Tensor = model(images)
        return value


class Rebuilder(InpFormerModel):
    """anomalib's model for images of any shape.

    anomalib's lays all patches out on a square: maps of other images are scrambled, without an error if their
    number allows.
    """

    def get_encoder_decoder_inploss(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return the features of encoder and decoder, (B, C, h, w) each, and the loss of the prototypes."""
        grid = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        encoded = [tokens[:, self.encoder.num_prefix_tokens :] for tokens in self.encoder(x).values()]
        tokens = self._fuse_feature(encoded)
        prototypes = self.aggregation[0](self.prototype_token[0].expand(len(x), -1, -1), tokens)
        # The same as anomalib's, which keeps tensors of it as attributes, so that the module could not be copied.
        distances = 1 - F.cosine_similarity(tokens[:, :, None], prototypes[:, None], dim=-1)
        loss = distances.min(2).values.mean()
        tokens = self.bottleneck[0](tokens)
        decoded: list[Tensor] = []
        for block in self.decoder:
            tokens = block(tokens, prototypes)
            decoded.insert(0, tokens)

        def maps(levels: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
            fused = [self._fuse_feature([levels[level] for level in group]) for group in groups]
            return [each.mT.reshape(len(x), -1, *grid) for each in fused]

        return maps(encoded, self.fuse_layer_encoder), maps(decoded, self.fuse_layer_decoder), loss
