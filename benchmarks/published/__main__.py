"""Published numbers beside raybench's: `python -m benchmarks.published DATA [--weights STORE]`.

`mvtec_ad.csv` holds the numbers that anomalib publishes with its models, on MVTec AD. It states backbone and seed, and
not the size of the images, which is 256×256 pixels here. A row is run if DATA has its category (a folder `bottle` or
`mvtec_bottle`, layout mvtec), the weights store has its files and, where an optimiser trains, there is a GPU. What
cannot be run is listed with what is missing.

raybench trains on the images that DATA has, and holds two of them back.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import raybench as rb
from raybench.detectors.settings import MODELS, Settings
from raybench.detectors.weights.catalog import LITE0
from raybench.detectors.weights.files import stored
from raybench.store import open_store

TABLE = Path(__file__).with_name("mvtec_ad.csv")
SIDE = 256
HELD_OUT, BUDGET = 0.01, 0.49  # as few images as there may be: the numbers below need no threshold
CONFIGS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("padim", "wide_resnet50_2"): {"n_features": 550},
    ("dfm", "resnet18"): {"pooling": 2},
    ("efficient_ad", "pdn-official"): {"teacher": "pdn-official", "not_ok": "imagenette"},
}
"""Settings of the published rows that are not raybench's defaults, besides the backbone."""


@dataclass(frozen=True)
class Published:
    """A published row."""

    model: str
    backbone: str
    category: str
    values: Mapping[str, float]
    """By metric."""
    source: str

    @property
    def label(self) -> str:
        """Name of the model in the run."""
        return f"{self.model}-{self.backbone}"

    @property
    def config(self) -> Mapping[str, Any]:
        """Settings for the same conditions."""
        own = CONFIGS.get((self.model, self.backbone), {})
        return own if "teacher" in own else {"backbone": self.backbone, **own}

    @property
    def settings(self) -> Settings:
        return MODELS[self.model].settings.model_validate(self.config)

    def lacks(self, weights: Collection[str], has_gpu: bool) -> list[str]:
        """Return what is missing to run it, but for the images. weights: names of the files in the weights store."""
        missing = [f"the weights {asset.name}" for asset in self.settings.weights() if asset.name not in weights]
        trains = "steps" in type(self.settings).model_fields
        return [*missing, *["a GPU"] * (trains and not has_gpu)]


def published(table: Path = TABLE) -> Iterator[Published]:
    """Yield the published rows."""
    with table.open(newline="") as stream:
        for row in csv.DictReader(stream):
            metrics = ("image_auroc", "pixel_auroc", "au_pro")
            values = {name: float(row[name]) for name in metrics if row[name]}
            yield Published(row["model"], row["backbone"], row["category"], values, row["source"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="", help="the weights store")
    parser.add_argument("--store", type=Path, default=Path("out/published"))
    asked = parser.parse_args()
    weights = {LITE0, *(stored(open_store(asked.weights)) if asked.weights else ())}
    folders = {path.name.removeprefix("mvtec_"): path for path in asked.data.iterdir() if (path / "train").is_dir()}
    missing = defaultdict[str, list[Published]](list)
    runnable = defaultdict[str, list[Published]](list)
    for row in published():
        if row.category not in folders:
            missing["the images"].append(row)
        elif lacks := row.lacks(weights, torch.cuda.is_available()):
            missing[", ".join(lacks)].append(row)
        else:
            runnable[row.category].append(row)
    print(f"published: {TABLE.name}; raybench: {SIDE}×{SIDE} pixels, images squashed, seed 0\n")
    for category, rows in runnable.items():
        print("\n".join(compare(folders[category], category, rows, asked.weights, asked.store)))
    for reason, rows in missing.items():
        cases = {(row.label, row.category) for row in rows}
        models, categories = (sorted({case[at] for case in cases}) for at in (0, 1))
        print(f"not run for want of {reason}: {', '.join(models)} on {', '.join(categories)} ({len(cases)} rows)")


def compare(folder: Path, category: str, rows: Sequence[Published], weights: str, store: Path) -> Iterator[str]:
    """Run published rows of a category and yield lines of a table."""
    run = rb.run(
        folder,
        models=[{"name": row.model, "label": row.label, "config": dict(row.config)} for row in rows],
        store=store,
        name=f"published-{category}",
        weights=weights,
        input={"fit": "squash", "pixels": SIDE * SIDE},
        held_out=HELD_OUT,
        false_alarm_budget=BUDGET,
        inspect=False,
    )
    board = run.board().loc[folder.name]
    for row in rows:
        found = board.loc[row.label].to_dict()
        if not found["seeds"]:
            yield f"{row.label} on {category} failed; the report in {store} says why"
            continue
        for metric, theirs in row.values.items():
            ours, low, high = (found[f"{metric}{end}"] for end in ("", "_low", "_high"))
            counts = int(found["images_test_ng"])
            images = f", {(ours - theirs) * counts:+.1f} of {counts} NG images" * (metric == "image_auroc")
            yield (
                f"{row.label} on {category}: {metric} {theirs:.3f} published, {ours:.3f} ({low:.3f}–{high:.3f}) "
                f"here{images}; {int(found['images_train_ok'])} OK training images"
            )


if __name__ == "__main__":
    main()
