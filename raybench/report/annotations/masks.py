"""Mask PNGs: 255 where the model says anomalous, 0 elsewhere, in the image's own size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raybench.data.decode import encode_mask
from raybench.report.annotations.item import AnnotatedImage
from raybench.report.annotations.streams import Add


@contextmanager
def masks(folder: Path, name: str) -> Iterator[Add]:
    """`masks/*.png`, named as their images. name: not used."""
    target = folder / "masks"
    target.mkdir()

    def add(item: AnnotatedImage) -> None:
        with (target / f"{item.stem}.png").open("xb") as file:
            file.write(encode_mask(item.mask))

    yield add
