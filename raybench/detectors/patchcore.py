"""PatchCore (Roth et al. 2021, arXiv:2106.08265): distance to a memory bank of OK patches.

anomalib's model scores. The memory bank is filled here, from a bounded pool and by a faster k-center greedy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import PatchcoreModel
from raybench.detectors.device import upload
from raybench.detectors.device_images import in_batches
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import PatchcoreSettings
from raybench.detectors.torch_detector import TorchDetector

_BATCH = 8
CANDIDATES = 2048
CENTERS_PER_LOOK = {"cpu": 1, "cuda": 32}
"""Choices until a look whether they are proven, which waits for a GPU."""
_CENTERS_PER_UPDATE = 256  # bounds the distance matrix of an update to pool_rows x 256


class Patchcore(TorchDetector[PatchcoreSettings]):
    """PatchCore."""

    min_images = 1

    def build(self) -> nn.Module:
        chosen = self.settings
        layout = backbone.layout(chosen.backbone)
        names = layout.names(*chosen.strides)
        model = PatchcoreModel(names, layout.timm_name, pre_trained=False, num_neighbors=chosen.neighbours)
        backbone.trim(model.feature_extractor)
        return backbone.Normalised(model, chosen.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        model: PatchcoreModel = module.model
        backbone.pretrain(model.feature_extractor, self.settings.backbone, context)
        draw = torch.Generator().manual_seed(context.seed)
        with torch.no_grad():
            rows = self.settings.pool_rows
            pool = draw_rows(
                images, lambda batch: embed(module.model, module.normalise(batch)), rows, draw, self.device
            )
            count = max(1, min(round(len(pool) * self.settings.coreset_ratio), self.settings.bank_rows))
            first = int(torch.randint(len(pool), (1,), generator=draw))
            model.memory_bank = pool[k_center(pool, count, first)]
        self.details = {"pool_rows": len(pool)}
        self.describe_weights(context)

    def card(self) -> Card:
        bank = self.module.get_buffer("model.memory_bank")
        return self.backbone_card("patchcore", bank=len(bank))


def draw_rows(
    images: TrainImages, embed: Callable[[Tensor], Tensor], most: int, draw: torch.Generator, device: torch.device
) -> Tensor:
    """Return features of random patches, as many of each image: (N, C) float32.

    Args:
        images: OK images.
        embed: Maps images (B, 3, H, W) in [0, 1] to features (B, patches, C).
        most: About the most patches of all images.
        draw: Draws the patches.
        device: Device of the features.
    """
    rows_per_image = max(1, most // len(images))
    rows = []
    for batch in in_batches(images, _BATCH, device):
        for patches in embed(batch):
            kept = torch.randperm(len(patches), generator=draw)[:rows_per_image].sort().values
            rows.append(patches[upload(kept, device)])
    return torch.cat(rows)


def embed(model: PatchcoreModel, images: Tensor) -> Tensor:
    """Return anomalib's patch features of normalised images: (B, patches, C) float32."""
    features = model.feature_extractor(images)
    embedding = model.generate_embedding({name: model.feature_pooler(part) for name, part in features.items()})
    return embedding.flatten(2).mT


def k_center(rows: Tensor, count: int, first: int) -> Tensor:
    """Choose rows by the k-center greedy: each next row is the farthest from the chosen ones.

    The choice is lazy but exact. The squared distance of a row to the nearest chosen one (its gap) only shrinks, so an
    outdated gap is an upper bound. Rows are chosen among those with the largest outdated gaps while they exceed the
    bound of all others. Then one matrix product updates all gaps for all new choices, which is much faster than one
    update per choice.

    Args:
        rows: (N, C) float32.
        count: Number of rows to choose.
        first: Index of the first choice.

    Returns:
        Indices of the chosen rows in order, (count,) int64.
    """
    norms = rows.square().sum(1)
    chosen = torch.tensor([first], device=rows.device)
    gaps = torch.full_like(norms, torch.inf)
    fresh = chosen
    while True:
        _shrink(gaps, rows, norms, fresh)
        if len(chosen) >= count:
            return chosen
        fresh = _farthest(rows, norms, gaps, count - len(chosen))
        chosen = torch.cat([chosen, fresh])


def _shrink(gaps: Tensor, rows: Tensor, norms: Tensor, fresh: Tensor) -> None:
    """Update the gaps in place by newly chosen rows, whose own become -inf."""
    for centers in torch.split(fresh, _CENTERS_PER_UPDATE):
        distances = torch.addmm(norms[centers], rows, rows[centers].T, alpha=-2)
        torch.minimum(gaps, distances.amin(1).add_(norms), out=gaps)
    gaps.index_fill_(0, fresh, -torch.inf)


def _farthest(rows: Tensor, norms: Tensor, gaps: Tensor, at_most: int) -> Tensor:
    """Return the next choices, as many as the outdated gaps prove."""
    stale, order = gaps.topk(min(CANDIDATES + 1, len(gaps)))
    bound = stale[-1] if len(order) > CANDIDATES else -torch.inf
    near, near_norms, local = rows[order], norms[order], stale.clone()
    fresh: list[Tensor] = []
    proven: list[Tensor] = []
    looks = CENTERS_PER_LOOK.get(rows.device.type, CENTERS_PER_LOOK["cuda"])
    while len(fresh) < at_most:
        best = local.argmax(0, keepdim=True)  # one dimension: an index of none would be read by the CPU
        proven.append(local[best] >= bound)
        if len(fresh) % looks == 0 and fresh and not proven[-1]:
            break
        fresh.append(best)
        distances = torch.addmv(near_norms + near_norms[best], near, near[best][0], alpha=-2)
        torch.minimum(local, distances, out=local)
        local.index_fill_(0, best, -torch.inf)
    proven[0].fill_(True)  # the farthest of all, whatever the bound
    return order[torch.cat(fresh)][: int(torch.cat(proven[: len(fresh)]).sum())]
