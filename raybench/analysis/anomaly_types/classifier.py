"""Tell the types of anomaly apart on one line: a classifier that learns from perturbed OK images, without labels.

Which features are informative differs from line to line, so each line has its own classifier: the mean of a multinomial
logistic regression, which extrapolates steadily, and of extremely randomised trees (Geurts et al. 2006), which learn
how features interact. Unperturbed images count as defects: a flagged image whose light and layout are unchanged has a
defect. A perturbation that OK images of the line show as well is left out.

The features of the perturbed images depend only on the line's images and on these rules. They are stored beside the
line's data inspection, so that they are computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.features import (
    ALIGNED,
    FEATURES,
    Features,
    ReferenceStatistics,
    extract_features,
    log_features,
)
from raybench.analysis.anomaly_types.perturbations import CHANGES, jittered, perturb
from raybench.analysis.anomaly_types.views import FINE, Image, make_view, shrunk
from raybench.data.manifest import Manifest
from raybench.errors import IntegrityError, ObjectMissing
from raybench.metrics import npz
from raybench.store import Store

DEFECT, LAYOUT, LIGHTING = "defect", "layout", "lighting"
UNCHANGED = "unchanged"
VERSION = 1  # of all rules of this package: samples and answers of another version are made again
USED = 0.6  # share of the perturbations applied to each image
NEAREST = 2  # references left out for half of the samples: a new image may have no reference that is as similar
COMMON = 0.9  # quantile of OK images
LEAST, MOST = -0.5, 2.5  # log of an excess: values beyond carry no more information
VISIBLE = 0.2  # log of an excess: a change of light or layout below it is as common among OK images
PRIOR = 1.5  # ratio of defects to each other type among flagged images
UNCHANGED_WEIGHT = 3.0

Floats = npt.NDArray[np.float64]
_GROUPS = {LIGHTING: "light", LAYOUT: "layout", DEFECT: "new"}
_STORED_KIND = "lessons of signals"


@dataclass(frozen=True)
class TrainingSamples:
    """Features of a line's perturbed OK images, from which its classifier learns."""

    kinds: npt.NDArray[np.str_]
    """(n,) type of the perturbation, or UNCHANGED."""
    logs: Floats
    """(n, F) float64, logarithms of the features in the order of FEATURES."""


class Classifier(Protocol):
    """A fitted classifier of scikit-learn."""

    classes_: npt.NDArray[np.str_]

    def predict_proba(self, features: Floats) -> Floats:
        """Return probabilities, (n, classes)."""
        ...


@dataclass(frozen=True)
class AnomalyTypeClassifier:
    """The fitted classifier of one line."""

    limits: Floats
    """(F,) float64, logarithm of the 90 % quantile of each feature among OK images."""
    models: Sequence[Classifier]
    """Fitted classifiers whose probabilities are averaged; empty if only defects are visible on the line."""

    @classmethod
    def fit(cls, samples: TrainingSamples) -> AnomalyTypeClassifier:
        """Fit the classifier of a line."""
        kinds, logs = samples.kinds, samples.logs
        limits = np.quantile(logs[kinds == UNCHANGED], COMMON, axis=0)
        groups = _groups(logs - limits)
        visible = np.array([kind not in (LIGHTING, LAYOUT) for kind in kinds])
        for kind in (LIGHTING, LAYOUT):
            visible |= (kinds == kind) & (groups[:, list(_GROUPS).index(kind)] > VISIBLE)
        return cls(limits, _fit_models(_inputs(logs - limits)[visible], kinds[visible]))

    def excess(self, features: Features) -> Floats:
        """Return (F,) float64 in the order of FEATURES, above 0 where the image differs more than OK images do."""
        return np.asarray(log_features(features) - self.limits)

    def probabilities(self, features: Features) -> dict[str, float]:
        """Return the probability of each type."""
        if not self.models:
            return dict.fromkeys(_GROUPS, 0.0) | {DEFECT: 1.0}
        probabilities = dict.fromkeys(_GROUPS, 0.0)
        inputs = _inputs(self.excess(features)[np.newaxis])
        for model in self.models:
            for kind, probability in zip(model.classes_, model.predict_proba(inputs)[0], strict=True):
                probabilities[kind] += float(probability) / len(self.models)
        return probabilities


def make_training_samples(
    references: ReferenceStatistics, images: Iterable[tuple[Image, int | None]]
) -> TrainingSamples:
    """Perturb OK images and extract the features of the results.

    Args:
        references: The line's references.
        images: OK images, (H, W, 3) uint8 RGB, each with its index among the references; None if it is not one.
    """
    rng = np.random.default_rng(0)
    samples = [sample for image, index in images for sample in _samples(image, index, references, rng)]
    return TrainingSamples(
        np.array([kind for kind, _ in samples]), np.stack([log_features(features) for _, features in samples])
    )


def _samples(
    image: Image, index: int | None, references: ReferenceStatistics, rng: np.random.Generator
) -> Iterator[tuple[str, Features]]:
    """Yield type and features of one OK image as it is, and perturbed."""
    size = references.views[0].grey.shape
    small = shrunk(image, (FINE * size[0], FINE * size[1]))
    itself = () if index is None else (index,)
    unchanged = extract_features(make_view(small, size), references, itself)
    spare = len(references.views) - len(itself) - ALIGNED
    similar = (*itself, *unchanged.move.aligned[: min(NEAREST, spare), 0].astype(int).tolist())
    yield UNCHANGED, unchanged
    yield UNCHANGED, extract_features(make_view(jittered(small, rng), size), references, similar)
    for kind, changes in CHANGES.items():
        for change in changes:
            made = perturb(small, change, rng) if rng.random() < USED else None
            if made is not None:
                made = jittered(made, rng) if rng.random() < 0.5 else made
                without = similar if rng.random() < 0.5 else itself
                yield kind, extract_features(make_view(made, size), references, without)


def _groups(excess: Floats) -> Floats:
    """Return the largest excess of each group, (n, 3): one feature is enough. excess: (n, F)."""
    clipped = np.clip(excess, LEAST, MOST)
    columns = [[feature.group == group for feature in FEATURES.values()] for group in _GROUPS.values()]
    return np.stack([clipped[:, column].max(axis=1) for column in columns], axis=1)


def _inputs(excess: Floats) -> Floats:
    return np.concatenate([np.clip(excess, LEAST, MOST), _groups(excess)], axis=1)


def _fit_models(inputs: Floats, kinds: npt.NDArray[np.str_]) -> list[Classifier]:
    # More than a second of imports, for which neither the driver nor most of its workers should wait.
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    truths = np.where(kinds == UNCHANGED, DEFECT, kinds)
    if len(set(truths.tolist())) == 1:
        return []
    weights = np.where(kinds == UNCHANGED, UNCHANGED_WEIGHT, 1.0)
    for kind in _GROUPS:
        of_kind = truths == kind
        weights[of_kind] *= (PRIOR if kind == DEFECT else 1.0) * len(truths) / (3 * max(1.0, weights[of_kind].sum()))
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    trees = ExtraTreesClassifier(100, min_samples_leaf=2, max_features=0.4, random_state=0)
    return [
        linear.fit(inputs, truths, logisticregression__sample_weight=weights),
        trees.fit(inputs, truths, sample_weight=weights),
    ]


def write_samples(lines: Store, manifest: Manifest, samples: TrainingSamples) -> None:
    """Store the samples of a line beside its data."""
    arrays = {"training_digest": np.array(manifest.training_digest), "kinds": samples.kinds, "logs": samples.logs}
    lines.put(_key(manifest.line), npz.to_bytes(_STORED_KIND, VERSION, arrays))


def read_samples(lines: Store, manifest: Manifest) -> TrainingSamples | None:
    """Return the stored samples of a line; None if none match its images and this version of the rules."""
    try:
        arrays = npz.from_bytes(_STORED_KIND, VERSION, lines.get(_key(manifest.line)))
    except (ObjectMissing, IntegrityError):
        return None
    same_line = str(arrays.pop("training_digest", "")) == manifest.training_digest
    return TrainingSamples(**arrays) if same_line else None


def _key(line: str) -> str:
    return f"{line}/signals.npz"
