"""The graph of an exported detector: source pixels in; score, heat map at the size of the source and decision out.

OpenCV resizes images for the detector that is evaluated (`data.geometry.to_network`). The graph repeats OpenCV's sums
in the same order and precision, so that the network gets the same bytes.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raybench.detectors.onnx_file import HEATMAP, INPUT, IS_ANOMALOUS, SCORE
from raybench.detectors.protocol import Detector
from raybench.detectors.tiled import Tiled
from raybench.detectors.torch_detector import TorchDetector
from raybench.errors import InputError, ModelError

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_ONE = 2048  # weight 1 in the fixed-point arithmetic of OpenCV's bilinear interpolation
_LEAST = 1e-3  # share of a pixel below which OpenCV's interpolation by area leaves it out


@dataclass(frozen=True, eq=False)
class Source:
    """Images of a line as a camera or a file gives them, and their position in the network's input."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: int
    """1 for grey, 3 for RGB."""
    levels: npt.NDArray[np.uint8] | None
    """(65536,) uint8: the 8-bit value of each 16-bit value. None for 8-bit images."""
    box: tuple[int, int, int, int]
    """Top, left, height and width of the resized image in the network's input, in pixels."""
    padding: int | None
    """Value of the pixels around the box. None: they are reflections of the image."""
    roi: npt.NDArray[np.bool_] | None = None
    """(height, width) bool, True where the images are looked at. None: everywhere."""
    outside: int = 0
    """8-bit value that the detector sees elsewhere."""
    scored: npt.NDArray[np.bool_] | None = None
    """Pixels of the network's input whose highest heat is the score, (h, w) bool. None: the detector's own score."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the graph's input."""
        return 1, self.height, self.width, self.channels

    @property
    def dtype(self) -> str:
        """Type of the graph's input."""
        return "uint8" if self.levels is None else "uint16"


def write_onnx(detector: Detector, source: Source, threshold: float | None, path: Path) -> None:
    """Write a detector with preparation and threshold to an ONNX file.

    Args:
        detector: A fitted detector.
        source: The images that the file is to take.
        threshold: Images with a higher score are anomalous. None: the file has no output `is_anomalous`.
        path: The file to write.

    Raises:
        InputError: Packages are missing.
        ModelError: The detector cannot be expressed in ONNX.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {', '.join(missing)}; install raybench[export]")
    if reason := detector.card().not_exportable:
        raise ModelError(f"it cannot be exported: {reason}")
    tiled = detector if isinstance(detector, Tiled) else None
    inner = tiled.inner if tiled else detector
    if not isinstance(inner, TorchDetector):
        raise ModelError("it cannot be exported: it is no torch detector of raybench's")
    model = ExportedModel(inner, tiled, source, threshold).eval().to(inner.device)
    example = torch.zeros(source.shape, dtype=getattr(torch, source.dtype), device=inner.device)
    with torch.inference_mode():
        names = list(model(example))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (example,), path, input_names=[INPUT], output_names=names, dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter's errors have no common base
        raise ModelError(f"it cannot be exported: {type(error).__name__}: {error}") from error


class ExportedModel(nn.Module):
    """A detector's module from source pixels to the decision.

    It maps `image`, (1, H, W, C) uint8 or uint16, to `score`, (1,) float64, raw; `heatmap`, (1, H, W) float32, unless
    the module has none, with the lowest value of the region of interest outside of it; and `is_anomalous`, (1,) bool:
    score > threshold, unless there is no threshold.

    Args:
        inner: A fitted detector.
        tiled: The detector of larger images that applies `inner` to tiles. None if `inner` gets whole images.
        source: The images.
        threshold: Images with a higher score are anomalous.
    """

    scored: Tensor | None

    def __init__(self, inner: TorchDetector[Any], tiled: Tiled | None, source: Source, threshold: float | None) -> None:
        super().__init__()
        whole = tiled or inner
        self.height, self.width = whole.height, whole.width
        self.tile, self.places = (tiled.tile, tiled.places) if tiled else (0, [])
        self.to_network = ToNetwork(source, self.height, self.width)
        self.module = inner.scorer
        self.to_source = ToSource(source)
        self.register_buffer("scored", None if source.scored is None else torch.from_numpy(source.scored.copy()))
        self.threshold = nn.Buffer(torch.tensor(math.nan if threshold is None else threshold, dtype=torch.float64))
        self.decides = threshold is not None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        tiles = self._cut(self.to_network(image))
        output: Any = self.module(tiles.permute(0, 3, 1, 2) / 255)
        score = output.pred_score.reshape(-1).double().amax(0, keepdim=True)
        heatmap = None
        if output.anomaly_map is not None:
            joined = self._join(output.anomaly_map.reshape(tiles.shape[:3]).float())
            heatmap = self.to_source(joined)
            if self.scored is not None:
                score = torch.where(self.scored, joined, -torch.inf).amax((1, 2)).double()
        outputs = {SCORE: score} if heatmap is None else {SCORE: score, HEATMAP: heatmap}
        if self.decides:
            outputs[IS_ANOMALOUS] = score > self.threshold
        return outputs

    def _cut(self, pixels: Tensor) -> Tensor:
        """Cut the network's input (1, h, w, 3) into tiles (T, tile, tile, 3), as `Tiled` does."""
        if not self.places:
            return pixels
        return torch.cat([pixels[:, top : top + self.tile, left : left + self.tile] for top, left in self.places])

    def _join(self, maps: Tensor) -> Tensor:
        """Merge the heat maps of tiles (T, tile, tile) to one of the network's input (1, h, w), as `Tiled` does."""
        if not self.places:
            return maps
        right, below = self.width - self.tile, self.height - self.tile
        around = [(left, right - left, top, below - top) for top, left in self.places]
        total = functools.reduce(torch.add, map(functional.pad, maps, around))
        count = functools.reduce(torch.add, map(functional.pad, torch.ones_like(maps), around))
        return (total / count)[None]


class ToNetwork(nn.Module):
    """`data.geometry.to_network` for images of one size, after `data.decode.eight_bit` and `data.roi.fill_outside`.

    The result has the same bytes.

    It maps (1, H, W, C) uint8 or uint16 to (1, height, width, 3) float32, whole numbers from 0 to 255.
    """

    levels: Tensor | None
    inside: Tensor | None

    def __init__(self, source: Source, height: int, width: int) -> None:
        super().__init__()
        levels = None if source.levels is None else torch.from_numpy(source.levels.astype(np.float32))[:, None]
        self.register_buffer("levels", levels)
        self.register_buffer("inside", None if source.roi is None else torch.from_numpy(source.roi.T.copy())[..., None])
        self.outside = float(source.outside)
        top, left, inner_height, inner_width = source.box
        around = top, height - top - inner_height, left, width - left - inner_width
        columns, rows = (source.width, inner_width), (source.height, inner_height)
        if inner_height > source.height or inner_width > source.width:
            self.resize: nn.Module = _Bilinear(columns, rows)
        elif source.width % inner_width == 0 and source.height % inner_height == 0:
            self.resize = _BlockMean(columns, rows)
        else:
            self.resize = _Area(columns, rows)
        self.padding = source.padding
        self.around = around
        self.rows, self.columns = (
            nn.Buffer(torch.from_numpy(np.pad(np.arange(size), pair, mode="symmetric")))
            for size, pair in ((inner_height, around[:2]), (inner_width, around[2:]))
        )

    def forward(self, image: Tensor) -> Tensor:
        stored = image[0].transpose(0, 1)  # runtimes copy whole columns faster than single pixels of each row
        pixels = stored.float() if self.levels is None else functional.embedding(stored.int(), self.levels)[..., 0]
        if self.inside is not None:
            pixels = torch.where(self.inside, pixels, self.outside)
        pixels = self.resize(pixels)
        if any(self.around):
            if self.padding is None:
                pixels = pixels.index_select(0, self.rows).index_select(1, self.columns)
            else:
                top, below, left, right = self.around
                pixels = functional.pad(pixels, (0, 0, left, right, top, below), value=self.padding)
        return pixels.expand(-1, -1, 3)[None]


class ToSource(nn.Module):
    """`data.geometry.to_source` for images of one size, then `data.roi.level_outside`.

    It maps heat maps (1, h, w) to (1, H, W).
    """

    inside: Tensor | None

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.register_buffer("inside", None if source.roi is None else torch.from_numpy(source.roi.copy()))
        top, left, height, width = source.box
        self.columns = _WeightedSum(*_linear(width, source.width), first=left)
        self.rows = _WeightedSum(*_linear(height, source.height), first=top)

    def forward(self, maps: Tensor) -> Tensor:
        across: Tensor = self.columns(maps[0].transpose(0, 1))
        resized: Tensor = self.rows(across.transpose(0, 1))
        if self.inside is not None:
            lowest = torch.where(self.inside, resized, torch.inf).amin((0, 1))
            resized = torch.where(self.inside, resized, lowest)
        return resized[None]


Side = tuple[int, int]
"""Length before and after resizing, in pixels."""


class _Area(nn.Module):
    """OpenCV's INTER_AREA of uint8. It maps (W, H, C) to (h, w, C), all float32."""

    def __init__(self, columns: Side, rows: Side) -> None:
        super().__init__()
        # Runtimes contract a product and a sum to one operation, which rounds differently, but not across a ReLU.
        self.columns = _WeightedSum(*_area(*columns), each=torch.relu)
        self.rows = _WeightedSum(*_area(*rows), each=torch.relu)

    def forward(self, pixels: Tensor) -> Tensor:
        mean: Tensor = self.rows(self.columns(pixels).transpose(0, 1))
        return mean.round()


class _BlockMean(nn.Module):
    """The same where each pixel is the mean of a block of whole pixels."""

    def __init__(self, columns: Side, rows: Side) -> None:
        super().__init__()
        self.columns, self.rows = _WeightedSum(*_blocks(*columns)), _WeightedSum(*_blocks(*rows))
        block = columns[0] // columns[1], rows[0] // rows[1]
        self.scale = nn.Buffer(torch.tensor(1 / math.prod(block), dtype=torch.float32))
        self.halves_go_up = block == (2, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        mean: Tensor = self.rows(self.columns(pixels).transpose(0, 1)) * self.scale
        return (mean + 0.5).floor() if self.halves_go_up else mean.round()


class _Bilinear(nn.Module):
    """OpenCV's INTER_LINEAR of uint8, which computes with integers of 32 bits. They are exact in float64."""

    def __init__(self, columns: Side, rows: Side) -> None:
        super().__init__()
        (across, across_weight), (down, down_weight) = (_linear(*side) for side in (columns, rows))
        self.columns = _WeightedSum(across, _fixed_point(across_weight))
        self.rows = _WeightedSum(down, _fixed_point(down_weight), each=lambda product: (product / 2**16).floor())

    def forward(self, pixels: Tensor) -> Tensor:
        across = (self.columns(pixels.double()) / 2**4).floor()
        scaled: Tensor = (self.rows(across.transpose(0, 1)) + 2) / 2**2
        return scaled.floor().float()


class _WeightedSum(nn.Module):
    """Resizes the first dimension: the sum over k of `each(values[index[k]] * weight[k])`, added in this order.

    Args:
        index: (K, size) int64.
        weight: (K, size), of the type of the values.
        each: Applied to each product.
        first: Position of the first value.
    """

    def __init__(
        self,
        index: npt.NDArray[np.int64],
        weight: npt.NDArray[np.floating],
        each: Callable[[Tensor], Tensor] | None = None,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.each = each
        self.index, self.weight = nn.Buffer(torch.from_numpy(index + first)), nn.Buffer(torch.from_numpy(weight))

    def forward(self, values: Tensor) -> Tensor:
        shape = (-1, *[1] * (values.ndim - 1))
        products = (
            values.index_select(0, index) * weight.reshape(shape)
            for index, weight in zip(self.index, self.weight, strict=True)
        )
        return functools.reduce(torch.add, map(self.each, products) if self.each else products)


def _fixed_point(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(np.rint(weight * np.float32(_ONE)), np.float64)


def _area(size: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return indices and weights of INTER_AREA, (K, target) each: the pixels that a resized one covers, by share."""
    scale = size / target
    index = np.zeros((math.ceil(scale) + 2, target), np.int64)
    weight = np.zeros(index.shape, np.float32)
    for position in range(target):
        start = position * scale
        end = start + scale
        covered = min(scale, size - start)
        last = min(math.floor(end), size - 1)
        first = min(math.ceil(start), last)
        parts = [(first - 1, first - start)] if first - start > _LEAST else []
        parts += [(pixel, 1.0) for pixel in range(first, last)]
        parts += [(last, min(end - last, 1.0, covered))] if end - last > _LEAST else []
        for row, (pixel, share) in enumerate(parts):
            index[row, position], weight[row, position] = pixel, share / covered
    used = weight.any(axis=1)
    return index[used], weight[used]


def _blocks(size: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return indices and weights, (K, target) each, of the sums of blocks of K values."""
    index = np.arange(size).reshape(target, -1).T
    return np.ascontiguousarray(index), np.ones(index.shape, np.float32)


def _linear(size: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return indices and weights of INTER_LINEAR, (2, target) each. Beyond the edges, the last pixel goes on."""
    position = ((np.arange(target) + 0.5) * (size / target) - 0.5).astype(np.float32)
    first = np.floor(position)
    share = position - first
    index = np.stack([first, first + 1]).astype(np.int64).clip(0, size - 1)
    return index, np.stack([np.float32(1) - share, share])
