"""Many lines for little: one is packed, the others hold the same images under their own names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.data.manifest import Manifest, write_manifest
from raybench.data.pack import PackOptions, pack
from raybench.store import Store, open_store

MODELS = 10
PIXELS = 32 * 48
TRAIN, TEST = 8, 2  # images; TEST of OK and as many NG
WRITERS = 16


def write_images(folder: Path) -> Path:
    """A line of a few small images, in the mvtec layout: OK ones are noise, NG ones have a bright square."""
    rng = np.random.default_rng(0)
    for name, count in (("train/good", TRAIN), ("test/good", TEST), ("test/square", TEST)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = rng.integers(90, 110, (32, 48, 3), dtype=np.uint8)
            if name == "test/square":
                image[8:16, 8:16] = 255
            cv2.imwrite(str(folder / name / f"{number:03}.png"), image)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 8:16] = 255
    (folder / "ground_truth/square").mkdir(parents=True, exist_ok=True)
    for number in range(TEST):
        cv2.imwrite(str(folder / "ground_truth/square" / f"{number:03}_mask.png"), mask)
    return folder


def put_lines(store: Store, images: Path, lines: int) -> None:
    """`lines` lines of `images` into `store`, `line-0000` and so on."""
    source = store.sub("packed-once")
    packed = pack(open_store(str(images)), source, "line", PackOptions())
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda number: _put(source, packed, store.sub("lines"), f"line-{number:04}"), range(lines)))


def _put(source: Store, packed: Manifest, lines: Store, name: str) -> None:
    shards = tuple(replace(shard, key=shard.key.replace("line/", f"{name}/", 1)) for shard in packed.shards)
    for old, new in zip(packed.shards, shards, strict=True):
        lines.put(new.key, source.get(old.key))
    write_manifest(lines, replace(packed, line=name, shards=shards))


def experiment(store: Store, name: str, resources: Resources) -> Experiment:
    """Ten settings of the fake model on all lines of `store`, and nothing but their units."""
    models = tuple(
        ModelChoice(name="fake", label=f"grid-{grid}", config={"grid": grid}) for grid in range(2, 2 + MODELS)
    )
    return Experiment(
        name=name,
        store=store.uri(),
        lines=("line-*",),
        models=models,
        false_alarm_budget=0.3,
        input=InputChoice(pixels=PIXELS),
        squashed_twins=False,
        inspect=False,
        annotation=Annotation(signals=0),
        resources=resources,
    )
