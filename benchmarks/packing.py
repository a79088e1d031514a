"""Packing rate to the embedded S3 server, beside the server's own PUT rate (64 MB objects, one at a time)."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from raybench.data.pack import pack
from raybench.store import Store, open_store
from raybench.store.server import embedded_server

IMAGES = {".png": 400, ".jpg": 1600}  # about 350 MB each
SIDE = 600
ROUNDS = 3
OBJECTS, OBJECT_MB = 6, 64


def write_images(folder: Path, suffix: str) -> float:
    """Noise on a smooth ground, the hard case for a JPEG decoder; returns their megabytes."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(40, 200, (8, 8, 3), dtype=np.uint8), (SIDE, SIDE))
    (folder / "ok").mkdir(parents=True)
    for number in range(IMAGES[suffix]):
        noise = rng.integers(0, 48, (SIDE, SIDE, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "ok" / f"{number:04}{suffix}"), cv2.add(ground, noise))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def put_rate(store: Store) -> float:
    """MB/s of plain PUTs."""
    data = np.random.default_rng(0).bytes(OBJECT_MB * 1_000_000)
    started = time.perf_counter()
    for number in range(OBJECTS):
        store.put(f"plain/{number}", data)
    return OBJECTS * OBJECT_MB / (time.perf_counter() - started)


def main() -> None:
    print(f"{'images':<10}{'MB':>8}{'pack MB/s':>12}{'PUT MB/s':>12}{'pack/PUT':>10}   (median of {ROUNDS} rounds)")
    for suffix in (".png", ".jpg"):
        with tempfile.TemporaryDirectory() as name, embedded_server(Path(name, "server")):
            bucket = open_store("s3://bench")
            bucket.create()
            size_mb = write_images(Path(name, "images"), suffix)
            packed, plain = [], []
            for _ in range(ROUNDS):
                plain.append(put_rate(bucket))
                started = time.perf_counter()
                pack(open_store(str(Path(name, "images"))), bucket.sub("lines"), "noise")
                packed.append(size_mb / (time.perf_counter() - started))
            rate, peer = statistics.median(packed), statistics.median(plain)
            print(f"{suffix[1:]:<10}{size_mb:>8.0f}{rate:>12.0f}{peer:>12.0f}{rate / peer:>10.2f}")


if __name__ == "__main__":
    main()
