"""What was measured of the robustness of a line's models, in one object per line for the report.

runs/<name>/robustness/<line>.json    scores of perturbed images by detector and perturbation, and what failed

The scores are copies of commits of the detectors, `robustness-<digest>.json`, so the object can be lost and a report
need not look into each detector's folder. Labels are no part of it: those of today judge the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raybench.data.line import Line
from raybench.data.perturbations import PerturbedImages
from raybench.errors import ObjectMissing
from raybench.runs.records import Failure
from raybench.runs.run import RunStore, decode, encode


@dataclass(frozen=True)
class MeasuredRobustness:
    """Scores of perturbed images of a line."""

    images: Mapping[str, str]
    """Digest of each image that was perturbed and of its region of interest, by image ID."""
    scores: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """By detector_id and name of the perturbation: the score of each image."""
    failures: Mapping[str, Mapping[str, Failure]] = field(default_factory=dict)
    """By detector_id and name of the perturbation: why there are no scores."""

    def merge(self, later: MeasuredRobustness) -> MeasuredRobustness:
        """Return what a later command measured, with what this one knows of other detectors on the same images."""
        if self.images != later.images:
            return later
        again = later.scores.keys() | later.failures.keys()
        scores = {each: found for each, found in self.scores.items() if each not in again}
        failures = {each: found for each, found in self.failures.items() if each not in again}
        return replace(later, scores={**scores, **later.scores}, failures={**failures, **later.failures})

    def of_today(self, digests: Mapping[str, str]) -> MeasuredRobustness:
        """Return what still holds: the scores of images whose files have not changed. digests: see `Line.digests`."""
        kept = {image_id: sha256 for image_id, sha256 in self.images.items() if digests.get(image_id) == sha256}
        scores = {
            detector_id: {name: {image_id: found[image_id] for image_id in kept} for name, found in by_name.items()}
            for detector_id, by_name in self.scores.items()
        }
        return replace(self, images=kept, scores=scores)


def robustness_name(line: Line, perturbed: PerturbedImages) -> str:
    """Return the name of the commit of perturbed images' scores, below the detector's ID."""
    return f"robustness-{perturbed.identity(line)[:16]}"


def lines_with_robustness(run: RunStore) -> set[str]:
    """Return the lines of a run whose robustness has been measured."""
    prefix = _key(run, "").removesuffix(".json")
    return {item.key.removeprefix(prefix).removesuffix(".json") for item in run.store.list(prefix)}


def read_robustness(run: RunStore, line: str) -> MeasuredRobustness | None:
    """Return what was measured of a line, None if nothing was. Raises IntegrityError for damaged bytes."""
    key = _key(run, line)
    try:
        return decode(MeasuredRobustness, run.store.get(key), run.store.uri(key))
    except ObjectMissing:
        return None


def write_robustness(run: RunStore, line: str, measured: MeasuredRobustness) -> None:
    """Store what was measured of a line, in place of what was stored of the same detectors."""
    before = read_robustness(run, line)
    run.store.put(_key(run, line), encode(before.merge(measured) if before else measured))


def _key(run: RunStore, line: str) -> str:
    return f"{run.root}/robustness/{line}.json"
