"""Whether numbers hold that labels which came back give: `python -m benchmarks.label_sampling RUN LINE`.

RUN is the URI of a finished run on a line of which every image is labelled, so that the truth is known. It is replayed
in many random orders as if only ten images had been labelled at first, taken at random: each turn labels the images
that look most suspicious, and then some of the rest at random. Printed is how far numbers are off on average: the share
of NG images, and of each model the image AUROC and the share of OK images above the median NG score; once with the
labels that represent the line, once with all labels. An order without a number in a turn does not count in it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import raybench as rb
from raybench.metrics.image import Ranked
from raybench.metrics.sampling import LEAST_SAMPLE, reach

KNOWN = 10
"""Images labelled at first."""
PER_TURN = 16
Mask = npt.NDArray[np.bool_]


def main(uri: str, line: str, orders: int, turns: int) -> None:
    images = rb.open_run(uri).images(line)
    images = images[images["label"] != "unknown"]
    models = [name.removeprefix("score_") for name in images.columns if name.startswith("score_")]
    names = ["NG", *(f"{number} of {model}" for model in models for number in ("image AUROC", "OK above"))]
    truth = _numbers(images, models, np.ones(len(images), bool))
    off: defaultdict[tuple[int, str], list[list[float]]] = defaultdict(list)
    for order in range(orders):
        rng = np.random.default_rng(order)
        known = np.zeros(len(images), bool)
        known[rng.choice(len(images), KNOWN, replace=False)] = True
        numbers, seen = rng.random(len(images)), known.copy()
        for turn in range(1, turns + 1):
            seen[_first(-images["excess"].to_numpy(), seen, PER_TURN - LEAST_SAMPLE)] = True
            seen[_first(numbers, seen, LEAST_SAMPLE)] = True
            sample = known | (numbers < reach(numbers[~known], seen[~known]))
            for name, counted in (("sample", sample), ("all", seen)):
                off[turn, name].append([a - b for a, b in zip(_numbers(images, models, counted), truth, strict=True)])
    print(f"{orders} orders of {len(images)} images; standard errors are at most {_error(off):.3f}\n")
    print("| | on all images |", " | ".join(f"turn {turn} | all labels" for turn in range(1, turns + 1)), "|")
    print("|" + "---|" * (2 + 2 * turns))
    for index, name in enumerate(names):
        means = (
            np.nanmean([each[index] for each in off[turn, kind]])
            for turn in range(1, turns + 1)
            for kind in ("sample", "all")
        )
        print("|", " | ".join([name, f"{truth[index]:.3f}", *(f"{mean:+.3f}" for mean in means)]), "|")


def _first(keys: npt.NDArray[Any], seen: Mask, count: int) -> npt.NDArray[np.int64]:
    """Return the unseen images with the smallest keys."""
    left = np.flatnonzero(~seen)
    return left[np.argsort(keys[left], kind="stable")[:count]]


def _numbers(images: pd.DataFrame, models: list[str], counted: Mask) -> list[float]:
    """Return the share of NG images, and of each model its image AUROC and the share of OK images above a score."""
    is_ng = (images["label"] == "ng").to_numpy()
    found = [float(is_ng[counted].mean())]
    for model in models:
        scores = images[f"score_{model}"].to_numpy()
        ok, ng = scores[counted & ~is_ng], scores[counted & is_ng]
        if not len(ok) or not len(ng):
            found += [np.nan, np.nan]
            continue
        ranked = Ranked(ok, ng).all(np.ones((1, len(ok))), np.ones((1, len(ng))))
        found += [float(ranked[0, 0]), float((ok > np.median(scores[is_ng])).mean())]
    return found


def _error(off: defaultdict[tuple[int, str], list[list[float]]]) -> float:
    return max(float(np.nanmax(np.nanstd(rows, axis=0)) / np.sqrt(len(rows))) for rows in off.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("line")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    main(chosen.run, chosen.line, chosen.orders, chosen.turns)
