"""What tells the kinds apart on one line: a classifier that learns from perturbed OK images, without labels.

What a witness is worth differs from line to line, so each line has its own: the mean of a multinomial logistic
regression, which is steady on what it has never seen, and of extremely randomised trees (Geurts et al. 2006), which see
how witnesses depend on each other. Unperturbed images count as defects: what is flagged, and has changed in neither
light nor layout, is one. So is a change that OK images of the line show as well: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raybench.analysis.anomaly_types.features import (
    FEATURES,
    LAID_OVER,
    Measured,
    ReferenceStatistics,
    log_features,
    measure,
)
from raybench.analysis.anomaly_types.perturbations import CHANGES, jittered, perturb
from raybench.analysis.anomaly_types.training_samples import TrainingSamples
from raybench.analysis.anomaly_types.views import FINE, Image, shrunk, view

DEFECT, LAYOUT, LIGHTING = "defect", "layout", "lighting"
UNCHANGED = "unchanged"
USED = 0.6  # of the perturbations, for each image
NEAREST = 2  # references left out for half of the samples: a new image's fellows may not be among them
COMMON = 0.9  # quantile of what OK images show
LEAST, MOST = -0.5, 2.5  # log of an excess: further off it says no more
VISIBLE = 0.2  # log of an excess: below, a change of light or layout is what OK images show as well
PRIOR = 1.5  # times as many flagged images are defects as have each of the other kinds
UNCHANGED_WEIGHT = 3.0

Floats = npt.NDArray[np.float64]
_GROUPS = {LIGHTING: "light", LAYOUT: "layout", DEFECT: "new"}


class Classifier(Protocol):
    """One of scikit-learn's, fitted."""

    classes_: npt.NDArray[np.str_]

    def predict_proba(self, features: Floats) -> Floats: ...


@dataclass(frozen=True)
class AnomalyTypeClassifier:
    """limits: (W,) float64, logarithm of what OK images show, by witness. models: fitted classifiers; none where
    nothing but a defect can be seen on the line's images."""

    limits: Floats
    models: Sequence[Classifier]

    @classmethod
    def of(cls, lessons: TrainingSamples) -> AnomalyTypeClassifier:
        kinds, found = lessons.kinds, lessons.logs
        limits = np.quantile(found[kinds == UNCHANGED], COMMON, axis=0)
        groups = _groups(found - limits)
        seen = np.array([kind not in (LIGHTING, LAYOUT) for kind in kinds])
        for kind in (LIGHTING, LAYOUT):
            seen |= (kinds == kind) & (groups[:, list(_GROUPS).index(kind)] > VISIBLE)
        return cls(limits, _fitted(_features(found - limits)[seen], kinds[seen]))

    def excess(self, measured: Measured) -> Floats:
        """(W,): above 0 where the image shows more than OK images do."""
        return np.asarray(log_features(measured) - self.limits)

    def chances(self, measured: Measured) -> dict[str, float]:
        """Probabilities by kind."""
        found = dict.fromkeys(_GROUPS, 0.0)
        features = _features(self.excess(measured)[np.newaxis])
        for model in self.models:
            for kind, share in zip(model.classes_, model.predict_proba(features)[0], strict=True):
                found[kind] += float(share) / len(self.models)
        return found if self.models else found | {DEFECT: 1.0}


def learn(known: ReferenceStatistics, images: Iterable[tuple[Image, int | None]]) -> TrainingSamples:
    """From OK images and, where one is itself a reference, its place among `known`."""
    rng = np.random.default_rng(0)
    samples = [sample for image, at in images for sample in _samples(image, at, known, rng)]
    return TrainingSamples(
        np.array([kind for kind, _ in samples]), np.stack([log_features(measured) for _, measured in samples])
    )


def _samples(
    image: Image, at: int | None, known: ReferenceStatistics, rng: np.random.Generator
) -> Iterator[tuple[str, Measured]]:
    """Kind and witnesses of one OK image as it is, and perturbed."""
    size = known.views[0].grey.shape
    small = shrunk(image, (FINE * size[0], FINE * size[1]))
    itself = () if at is None else (at,)
    unchanged = measure(view(small, size), known, itself)
    spare = len(known.views) - len(itself) - LAID_OVER
    alone = (*itself, *unchanged.move.aligned[: min(NEAREST, spare), 0].astype(int).tolist())
    yield UNCHANGED, unchanged
    yield UNCHANGED, measure(view(jittered(small, rng), size), known, alone)
    for kind, changes in CHANGES.items():
        for change in changes:
            made = perturb(small, change, rng) if rng.random() < USED else None
            if made is not None:
                made = jittered(made, rng) if rng.random() < 0.5 else made
                yield kind, measure(view(made, size), known, alone if rng.random() < 0.5 else itself)


def _groups(excess: Floats) -> Floats:
    """(n, 3): of each group the loudest witness: one is enough. excess: (n, W)."""
    clipped = np.clip(excess, LEAST, MOST)
    columns = [[witness.group == group for witness in FEATURES.values()] for group in _GROUPS.values()]
    return np.stack([clipped[:, column].max(axis=1) for column in columns], axis=1)


def _features(excess: Floats) -> Floats:
    return np.concatenate([np.clip(excess, LEAST, MOST), _groups(excess)], axis=1)


def _fitted(features: Floats, kinds: npt.NDArray[np.str_]) -> list[Classifier]:
    truths = np.where(kinds == UNCHANGED, DEFECT, kinds)
    if len(set(truths.tolist())) == 1:
        return []
    weights = np.where(kinds == UNCHANGED, UNCHANGED_WEIGHT, 1.0)
    for kind in _GROUPS:
        here = truths == kind
        weights[here] *= (PRIOR if kind == DEFECT else 1.0) * len(truths) / (3 * max(1.0, weights[here].sum()))
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    trees = ExtraTreesClassifier(100, min_samples_leaf=2, max_features=0.4, random_state=0)
    return [
        linear.fit(features, truths, logisticregression__sample_weight=weights),
        trees.fit(features, truths, sample_weight=weights),
    ]
