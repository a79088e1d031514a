"""`raybench demo`: all models on two lines of real solar cells and a generated line of strips, with masks.

The cells are the ELPV dataset (Buerhop-Lutz et al. 2018, CC BY-NC-SA 4.0), installed as the package `elpv-dataset` and
not redistributed here. A cell's label is the share of experts who saw a defect: 0 is OK, 1 is NG, and the cells that
they did not agree on become the line's unlabelled images. The strips are not square.
"""

from __future__ import annotations

import csv
import importlib.util
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from raybench.cli.pack import pack_line
from raybench.cli.run import run_experiment
from raybench.cli.terminal import STOPPED, OutFolder, out, print_packed
from raybench.config.experiment import Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.errors import InputError
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.store.server import embedded_server

MODELS = (  # the slowest first, so that none is left alone
    "efficient_ad", "draem", "cflow", "supersimplenet", "stfpm", "fastflow", "reverse_distillation",
    "padim", "patchcore", "dfm",
)  # fmt: skip
STEPS = {  # three seconds on one core, counted in steps so that every machine trains the same models
    "draem": {"steps": 6},
    "cflow": {"steps": 13},
    "supersimplenet": {"steps": 5},
    "stfpm": {"steps": 8},
    "fastflow": {"steps": 19},
    "reverse_distillation": {"steps": 18},
}
MEASURE_S = 0.5
PIXELS = 128 * 128
STRIP_HEIGHT, STRIP_WIDTH = 200, 320

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sizes:
    """How many images of each kind a demo line has."""

    train_ok: int = 64
    test_ok: int = 16
    test_ng: int = 16
    unlabelled: int = 8


def demo(out_folder: OutFolder = Path("out")) -> None:
    """Compare all models on real solar cells and one generated line, on an embedded S3 server."""
    folder = out_folder / "demo"
    with embedded_server(folder / "server"):
        bucket = open_store("s3://raybench-demo")
        bucket.create()
        for line, images in write_lines(folder / "images").items():
            manifest = pack_line(open_store(str(images)), bucket, line, "auto")
            print_packed(manifest)
        plan = make_plan(experiment(bucket.uri()))
        run = RunStore.of(plan)
        code = run_experiment(plan, run.store.uri(run.root), out_folder, None, as_json=False)
    if code != STOPPED:
        text = f"first start the demo's store again: raybench store {shlex.quote(str(folder / 'server'))}"
        out.print(text, soft_wrap=True, highlight=False, markup=False)
    sys.exit(code)


def experiment(store: str) -> Experiment:
    """Return the demo's experiment: all models on all lines, each trained for a few steps."""
    return Experiment(
        name="demo",
        store=store,
        lines=("*",),
        models=tuple(ModelChoice(name=name, config=STEPS.get(name, {})) for name in MODELS),
        preset="cpu",
        input=InputChoice(fit="native", pixels=PIXELS),
        resources=Resources(measure_s=MEASURE_S),
    )


def write_lines(folder: Path, sizes: Sizes | None = None) -> dict[str, Path]:
    """Write the demo's images.

    Args:
        folder: Local folder; each line becomes a folder in it.
        sizes: Numbers of images. None: the demo's.

    Returns:
        The image folder of each line.

    Raises:
        InputError: The package `elpv-dataset` is not installed.
    """
    sizes = sizes or Sizes()
    cells = _elpv()
    lines = {f"solar-{kind}": _write_cells(folder / f"solar-{kind}", cells, kind, sizes) for kind in ("mono", "poly")}
    return lines | {"strip": write_strips(folder / "strip", sizes)}


def _elpv() -> Path:
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise InputError("the demo's images are not installed: pip install 'raybench[demo]'")
    return Path(found.origin).parent / "data"


def _write_cells(folder: Path, data: Path, kind: str, sizes: Sizes) -> Path:
    """Write one cell type in the `csv` layout."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    paths = {
        share: [path for path, found, type_ in rows if type_ == kind and float(found) == share] for share in (0, 1)
    }
    unsure = [path for path, found, type_ in rows if type_ == kind and 0 < float(found) < 1]
    ok = _spread(paths[0], sizes.train_ok + sizes.test_ok)
    table = [(path, "train", "ok") for path in ok[: sizes.train_ok]]
    table += [(path, "test", "ok") for path in ok[sizes.train_ok :]]
    table += [(path, "test", "ng") for path in _spread(paths[1], sizes.test_ng)]
    table += [(path, "unlabelled", "unknown") for path in _spread(unsure, sizes.unlabelled)]
    for path, _, _ in table:
        shutil.copyfile(data / path, folder / path)
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "split", "label"))
        writer.writerows(table)
    return folder


def _spread(paths: Sequence[str], count: int) -> list[str]:
    """`count` of `paths`, shuffled the same way every time: neighbours come from one solar module."""
    order = np.random.default_rng(0).permutation(len(paths))[:count]
    return [paths[at] for at in order]


def write_strips(folder: Path, sizes: Sizes) -> Path:
    """Write drilled metal strips in the `mvtec` layout: OK ones, and scratched ones or ones with a missing hole."""
    rng = np.random.default_rng(7)
    for name, count in (("train/good", sizes.train_ok), ("test/good", sizes.test_ok)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            cv2.imwrite(str(folder / name / f"{index:03}.png"), _strip(rng))
    for index in range(sizes.test_ng):
        kind = ("scratch", "missing_hole")[index % 2]
        for name in (f"test/{kind}", f"ground_truth/{kind}"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        image, mask = _scratched(rng) if kind == "scratch" else _undrilled(rng)
        cv2.imwrite(str(folder / "test" / kind / f"{index:03}.png"), image)
        cv2.imwrite(str(folder / "ground_truth" / kind / f"{index:03}_mask.png"), mask)
    return folder


_HOLES = [(70 + 90 * index, 100) for index in range(3)]
_RADIUS = 22


def _strip(rng: np.random.Generator, without: int | None = None) -> Image:
    """(200, 320, 3) uint8: brushed metal with three holes, placed and lit a little differently each time."""
    grain = rng.normal(0, 14, (STRIP_HEIGHT, STRIP_WIDTH)).astype(np.float32)
    light = np.linspace(-10, 10, STRIP_WIDTH, dtype=np.float32) * rng.uniform(-1, 1)
    metal = 150 + rng.uniform(-8, 8) + cv2.blur(grain, (31, 1)) * 3 + light
    image = np.clip(metal, 0, 255).astype(np.uint8)
    dx, dy = rng.integers(-3, 4, 2)
    for at, (x, y) in enumerate(_HOLES):
        if at != without:
            cv2.circle(image, (int(x + dx), int(y + dy)), _RADIUS, 35, -1, cv2.LINE_AA)
            cv2.circle(image, (int(x + dx), int(y + dy)), _RADIUS, 190, 2, cv2.LINE_AA)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR).astype(np.uint8)


def _scratched(rng: np.random.Generator) -> tuple[Image, Image]:
    image, mask = _strip(rng), np.zeros((STRIP_HEIGHT, STRIP_WIDTH), np.uint8)
    start = rng.integers((30, 15), (STRIP_WIDTH - 90, STRIP_HEIGHT - 15))
    steps = rng.integers((8, -8), (20, 9), (5, 2)).cumsum(0)
    points = np.clip(start + steps, 2, (STRIP_WIDTH - 3, STRIP_HEIGHT - 3)).astype(np.int32)
    tone = int(rng.choice([60, 235]))
    cv2.polylines(image, [points], False, (tone, tone, tone), 2, cv2.LINE_AA)
    cv2.polylines(mask, [points], False, 255, 4)
    return image, mask


def _undrilled(rng: np.random.Generator) -> tuple[Image, Image]:
    at = int(rng.integers(len(_HOLES)))
    mask = np.zeros((STRIP_HEIGHT, STRIP_WIDTH), np.uint8)
    cv2.circle(mask, _HOLES[at], _RADIUS, 255, -1)
    return _strip(rng, without=at), mask
