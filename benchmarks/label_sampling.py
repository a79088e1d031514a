"""Whether numbers hold that labels which came back give: `python -m benchmarks.label_sampling RUN LINE`.

RUN is the URI of a finished run on a line of which every image is labelled, so that the truth is known. It is replayed
as if few images had been labelled at first: each turn labels the images that look most suspicious and some at random,
in many random orders. Printed is how often the 95 % interval of each model's image AUROC covers its image AUROC on all
images, and how far the values are off on average, once with the labels that represent the line, once with all labels.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import raybench as rb
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Threshold
from raybench.metrics.sampling import represents

KNOWN = 10
"""Images labelled at first, taken at random."""
PER_TURN, AT_RANDOM = 16, 5
NO_THRESHOLD = Threshold(None, 0, 0.05, 0.0, None, "not asked for")


def main(uri: str, line: str, orders: int, turns: int) -> None:
    images = rb.open_run(uri).images(line)
    images = images[images["label"] != "unknown"]
    models = [name.removeprefix("score_") for name in images.columns if name.startswith("score_")]
    truth = {model: _auroc(images, model, np.ones(len(images), bool))[1] for model in models}
    print("| turn | labels | model | truth | covered | mean error | all labels: covered | mean error |")
    print("|---|---|---|---|---|---|---|---|")
    found: dict[tuple[int, str, str], list[tuple[float, float, float]]] = {}
    for order in range(orders):
        rng = np.random.default_rng(order)
        known = np.zeros(len(images), bool)
        known[rng.choice(len(images), KNOWN, replace=False)] = True
        numbers, seen = rng.random(len(images)), known.copy()
        for turn in range(1, turns + 1):
            seen[_first(-images["excess"].to_numpy(), seen, PER_TURN - AT_RANDOM)] = True
            seen[_first(numbers, seen, AT_RANDOM)] = True
            sample = known.copy()
            sample[~known] = represents(numbers[~known], seen[~known])
            for model in models:
                for name, counted in (("sample", sample), ("all", seen)):
                    found.setdefault((turn, model, name), []).append(_auroc(images, model, counted))
    for turn in range(1, turns + 1):
        for model in models:
            cells = []
            for name in ("sample", "all"):
                low, value, high = np.array(found[turn, model, name]).T
                covered = ((low <= truth[model]) & (truth[model] <= high)).mean()
                cells += [f"{covered:.2f}", f"{np.nanmean(value) - truth[model]:+.3f}"]
            print("|", " | ".join([str(turn), str(turn * PER_TURN), model, f"{truth[model]:.3f}", *cells]), "|")


def _first(keys: npt.NDArray[Any], seen: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return the unseen images with the smallest keys."""
    left = np.flatnonzero(~seen)
    return left[np.argsort(keys[left], kind="stable")[:count]]


def _auroc(images: pd.DataFrame, model: str, counted: npt.NDArray[Any]) -> tuple[float, float, float]:
    """Return low end, value and high end of a model's image AUROC; an undefined one covers everything."""
    some = images[counted]
    scores = ImageScores.of(some.index.tolist(), some["label"].tolist(), some[f"score_{model}"].tolist())
    auroc = image_quality(scores, NO_THRESHOLD, draws=500).image_auroc
    if auroc.value is None or auroc.low is None or auroc.high is None:
        return 0.0, np.nan, 1.0
    return auroc.low, auroc.value, auroc.high


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("line")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    main(chosen.run, chosen.line, chosen.orders, chosen.turns)
