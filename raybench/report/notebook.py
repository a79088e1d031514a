"""What a notebook shows: the board as a table, and an image as a model sees it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw

from raybench.metrics.roi import Roi
from raybench.report.gallery import hatched, overlay

PANEL_SIDE = 480  # pixels, of a drawn heat map
Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One image as a model sees it."""

    line: str
    image_id: str
    label: str
    """ok, ng or unknown."""
    model: str
    score: float
    is_anomalous: bool | None
    """Whether the score is above the model's threshold. None without a threshold."""
    image: Rgb = field(repr=False)
    """(H, W, 3) uint8 RGB."""
    values: npt.NDArray[np.float32] = field(repr=False)
    """(H, W) float32, in the model's own unit. Outside of the region of interest, the lowest value of it."""
    mask: npt.NDArray[np.bool_] | None = field(repr=False)
    """(H, W) bool, True on defects. None where nobody annotated the image."""
    roi: npt.NDArray[np.bool_] | None = field(default=None, repr=False)
    """(H, W) bool, True where the image is looked at, its region of interest. None if all of it is."""
    low: float | None = None
    """The median heat of OK images."""
    high: float | None = None
    """The highest heat of OK images."""

    def plot(self) -> Image.Image:
        """Draw the image, the heat map over it and, where there is one, the mask, side by side.

        A pixel has half of the colour scale when it is as hot as the hottest pixel of OK images. A model that was
        trained without held-back OK images has no such anchor: its map is drawn from its lowest to its highest value.
        What lies outside of the region of interest is hatched.
        """
        low, high = (self.low, self.high) if self.low is not None and self.high is not None else self._span
        roi = None if self.roi is None else Roi.of(self.roi)
        panels = [hatched(panel, roi) for panel in (self.image, overlay(self.image, self.values, low, high))]
        if self.mask is not None:
            panels.append(np.repeat(self.mask[..., np.newaxis] * np.uint8(255), 3, axis=2))
        titles = (f"{self.image_id} ({self.label})", f"{self.model}: {self.score:.4g}", "mask")
        return _side_by_side(panels, titles)

    @property
    def _span(self) -> tuple[float, float]:
        return float(self.values.min()), float(self.values.max())

    def _repr_png_(self) -> bytes:
        sink = io.BytesIO()
        self.plot().save(sink, "png")
        return sink.getvalue()


class BoardFrame(pd.DataFrame):
    """The board, with all its columns; a notebook shows the ones that decide, the named model of each line in bold."""

    _SHOWN = (
        "grade", "rank", "image_auroc", "recall", "false_alarm_rate", "region_recall", "au_pro", "speed_p50_ms",
        "size_disk_mb", "conclusion",
    )  # fmt: skip

    def _repr_html_(self) -> str:
        shown = [name for name in self._SHOWN if name in self.columns]
        cells = {name: [self._cell(row, name) for _, row in self.iterrows()] for name in shown}
        named = [str(text).startswith("run this one") for text in self.get("conclusion", [""] * len(self))]

        def bold(column: pd.Series[Any]) -> list[str]:
            return ["font-weight: bold" if is_named else "" for is_named in named]

        style = pd.DataFrame(cells, self.index).style.apply(bold, axis=0)
        return str(style.format(escape="html").format_index(escape="html").to_html())  # names may be hostile

    def _cell(self, row: pd.Series[Any], name: str) -> str:
        value = row[name]
        if pd.isna(value):
            return "–"
        if not isinstance(value, float):
            return str(value)
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        return f"{value:.3f}" if low is None or pd.isna(low) else f"{value:.3f} ({low:.3f}–{high:.3f})"


def _side_by_side(panels: Sequence[Rgb], titles: Sequence[str], gap: int = 8, margin: int = 18) -> Image.Image:
    """The panels, which have one size, in a row on white, each below its title."""
    tiles = []
    for panel, title in zip(panels, titles, strict=False):
        picture = Image.fromarray(panel)
        picture.thumbnail((PANEL_SIDE, PANEL_SIDE))
        tile = Image.new("RGB", (picture.width, picture.height + margin), "white")
        ImageDraw.Draw(tile).text((2, 3), title, fill="black")
        tile.paste(picture, (0, margin))
        tiles.append(tile)
    width, height = tiles[0].size
    row = Image.new("RGB", (len(tiles) * (width + gap) - gap, height), "white")
    for at, tile in enumerate(tiles):
        row.paste(tile, (at * (width + gap), 0))
    return row
