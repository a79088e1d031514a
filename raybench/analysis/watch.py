"""Watch a line over time: when did it change, and in what; does the threshold still hold?

Every batch in the history of a line and a detector is a row. The medians of the scores, brightness, contrast and
sharpness are tested for a lasting change, and the share above the threshold against what it promises, both ways, see
`metrics.change`. All tests together give a false alarm in at most FALSE_ALARMS of YEAR batches' runs of stable lines,
however often anybody looks. A change counts if it is large as well, by the measure of `inspection.drift`.

An alarm stays: what set it off may have been seen to, which `since` says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from raybench.analysis.select import select_unit
from raybench.config.plan import Plan
from raybench.data.inspection.drift import MIN_EFFECT
from raybench.errors import InputError
from raybench.metrics.change import ChangeEvidence, change_evidence, share_evidence
from raybench.metrics.intervals import share_interval
from raybench.metrics.numbers import Estimate
from raybench.metrics.threshold import excess_of
from raybench.runs.history import QUANTILES, Batch, read_batches, utc_time
from raybench.runs.run import RunStore

FALSE_ALARMS, YEAR = 0.05, 365
"""Share of stable lines that have any alarm, at most, within so many batches."""
WATCHED = {"scores": "scores", "brightness": "brightness", "contrast": "contrast", "sharpness": "sharpness (log2)"}
LIMIT = math.log((len(WATCHED) + 2) * YEAR / FALSE_ALARMS)
"""Evidence that is an alarm, for each of the tests: those of the values, and two of the threshold."""
FEWEST = 8
"""Images of a batch that is tested, at least."""
ODD_SIZES = 0.05
"""Share of images of odd sizes in the latest batch that is an alarm. No image of the line had such a size, so there is
nothing to test."""
_MEDIAN, _HIGH = QUANTILES.index(0.5), QUANTILES.index(0.95)


@dataclass(frozen=True)
class Change:
    """A value that has changed."""

    what: str
    """The value: a key of WATCHED."""
    direction: str
    """`higher` or `lower`."""
    since: str
    """Time of the batch at which it most likely began. Where it changes slowly, the one from which on it is clear."""
    earliest: str
    """Time of the first likely one."""
    latest: str
    """Time of the last likely one."""
    found: str
    """Time of the batch at which the evidence was enough."""
    before: float
    """Median over the batches before."""
    after: float
    """Median over the batches since."""
    effect: float
    """Largest difference between the shares of images below any value before and since, 0 to 1."""

    def __str__(self) -> str:
        began = self.since[:10]
        if self.earliest[:10] != self.latest[:10]:
            began += f" ({self.earliest[:10]} to {self.latest[:10]})"
        return (
            f"{WATCHED[self.what]} {self.direction} since {began}: {self.before:.4g} before, {self.after:.4g} since; "
            f"found with the batch of {self.found[:10]}"
        )


@dataclass(frozen=True)
class ThresholdWatch:
    """Whether a threshold keeps its promise."""

    state: str
    """`holds`: nothing speaks against it. `too many`, `too few`: of the images are above it. `unknown`: no promise."""
    flagged: Estimate
    """Share of the images above it, over the batches with this threshold, since the change if there is one."""
    promised: float
    """Share of OK images above it, at most."""
    since: str = ""
    """Time of the batch at which that most likely began. Empty if it holds."""
    found: str = ""
    """Time of the batch at which the evidence was enough."""

    def __str__(self) -> str:
        share = (
            "no image is scored" if self.flagged.value is None else f"{self.flagged.value:.1%} of images are above it"
        )
        if self.flagged.low is not None and self.flagged.high is not None:
            share += f" ({self.flagged.low:.1%}–{self.flagged.high:.1%})"
        if self.state == "unknown":
            return "the threshold promises nothing"
        promise = f"it promises at most {self.promised:.1%} of OK images"
        if self.state == "holds":
            return f"nothing speaks against the threshold: {share}, {promise}"
        why = (
            "either so many are defects (--defects says how many are usual), or it does not hold any more"
            if self.state == "too many"
            else "it is too high for these images, and may miss defects"
        )
        return f"{self.state} images are above the threshold since {self.since[:10]}: {share}, {promise}; {why}"


@dataclass(frozen=True)
class Watch:
    """A line over time, with one detector."""

    run: str
    line: str
    model: str
    detector_id: str
    batches: tuple[Batch, ...]
    """In the order of time."""
    changes: tuple[Change, ...]
    """Values that have changed, in the order of WATCHED."""
    threshold: ThresholdWatch
    evidence: Mapping[str, float]
    """Evidence of a change after the latest batch, by value: 1 is enough for an alarm."""
    types: Mapping[str, tuple[int, int]]
    """Images of each anomaly type among the most anomalous: before the first change, and since."""
    odd_sizes: bool
    """Whether the latest batch has many images of sizes that the line does not have."""

    @property
    def changed(self) -> bool:
        """Whether there is any alarm."""
        return bool(self.changes) or self.odd_sizes or self.threshold.state in {"too many", "too few"}

    @property
    def sentences(self) -> list[str]:
        """What a person must know."""
        latest = self.batches[-1]
        found = [str(change) for change in self.changes] or ["no lasting change of scores, light or sharpness is found"]
        found.append(str(self.threshold))
        if self.odd_sizes:
            found.append(
                f"{latest.odd_sizes} of the latest {latest.images} images have a size or an aspect that no image of "
                "the line has: the threshold promises nothing for them"
            )
        if self.changes and self.types:
            kinds = ", ".join(f"{kind} {before} and {since}" for kind, (before, since) in sorted(self.types.items()))
            found.append(f"anomaly types among the most anomalous images, before and since: {kinds}")
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return a row per batch. A value `x` is the median of the batch; `scores_p95` the score that 5 % exceed."""
        return pd.DataFrame([_row(batch) for batch in self.batches]).set_index("at")

    def __str__(self) -> str:
        head = f"{self.line}, {self.model}: {len(self.batches)} batches, {self.batches[0].at} to {self.batches[-1].at}"
        return "\n".join([head, *(f"  {sentence}" for sentence in self.sentences)])

    __repr__ = __str__


def watch_line(plan: Plan, line: str, model: str | None, since: str | None = None, defects: float = 0.0) -> Watch:
    """Watch a line of a run by its history; see `Run.watch`."""
    if not 0 <= defects < 1:
        raise InputError(f"the share of defects is at least 0 and below 1, not {defects:g}")
    run, unit = RunStore.of(plan), select_unit(plan, line, model)
    start = utc_time(since) if since else ""
    batches = [batch for batch in read_batches(run, line, unit.detector_id) if batch.at >= start]
    if not batches:
        after = f" since {start}" if start else ""
        raise InputError(f"{unit.model} has scored no new images of {line}{after}; run `raybench predict` day by day")
    return watch(run.name, batches, defects)


def watch(run: str, batches: Sequence[Batch], defects: float = 0.0) -> Watch:
    """Test the batches of a line and a detector, in the order of time, at least one."""
    latest = batches[-1]
    tested = [batch for batch in batches if batch.images >= FEWEST]
    changes, evidence = list[Change](), dict[str, float]()
    for what in WATCHED:
        having = [batch for batch in tested if what in batch.quantiles]
        found = change_evidence([batch.quantiles[what][_MEDIAN] for batch in having])
        evidence[what] = float(found.evidence[-1]) / LIMIT if having else 0.0
        if change := _first_change(what, having, found):
            changes.append(change)
    first = min((change.since for change in changes), default=latest.at)
    return Watch(
        run=run,
        line=latest.line,
        model=latest.model,
        detector_id=latest.detector_id,
        batches=tuple(batches),
        changes=tuple(changes),
        threshold=_watch_threshold([batch for batch in batches if batch.threshold == latest.threshold], defects),
        evidence=evidence,
        types=_types(batches, first),
        odd_sizes=latest.odd_sizes > ODD_SIZES * latest.images,
    )


def _first_change(what: str, batches: Sequence[Batch], found: ChangeEvidence) -> Change | None:
    """Return the change that the evidence was first enough for, if it was large."""
    for last in np.flatnonzero(found.evidence >= LIMIT).tolist():
        start = int(found.starts[last])
        before, since = (
            np.sort([value for batch in part for value in batch.quantiles[what]])
            for part in (batches[:start], batches[start : last + 1])
        )
        values = np.concatenate([before, since])
        shares = [np.searchsorted(part, values, side="right") / len(part) for part in (before, since)]
        effect = float(np.abs(shares[0] - shares[1]).max())
        if effect < MIN_EFFECT:
            continue
        middles = [float(np.median(part)) for part in (before, since)]
        earliest, latest = (batches[at].at for at in found.spans[last].tolist())
        direction = "higher" if middles[1] > middles[0] else "lower"
        at = batches[start].at
        return Change(what, direction, at, earliest, latest, batches[last].at, middles[0], middles[1], effect)
    return None


def _watch_threshold(batches: Sequence[Batch], defects: float) -> ThresholdWatch:
    """Test the threshold that all of these batches have."""
    threshold = batches[-1].threshold
    if threshold.value is None or threshold.promised >= 1 or not threshold.n:
        return ThresholdWatch("unknown", Estimate(None, reason="no threshold that promises anything"), 1.0)
    flagged, images = [batch.flagged or 0 for batch in batches], [batch.images for batch in batches]
    found = share_evidence(flagged, images, threshold, defects)
    for state, side in (("too many", found.too_many), ("too few", found.too_few)):
        if len(alarms := np.flatnonzero(side.evidence >= LIMIT)):
            start = int(side.starts[alarms[0]])
            share = _share(flagged[start:], images[start:])
            return ThresholdWatch(state, share, threshold.promised, batches[start].at, batches[alarms[0]].at)
    return ThresholdWatch("holds", _share(flagged, images), threshold.promised)


def _share(flagged: Sequence[int], images: Sequence[int]) -> Estimate:
    """Return the share flagged; its interval lets days differ, and has none for a single batch."""
    n = sum(images)
    if len(images) == 1:
        return Estimate(flagged[0] / n, n=n)
    hits = np.concatenate([np.arange(size) < count for count, size in zip(flagged, images, strict=True)])
    low, high = share_interval(hits, np.repeat(np.arange(len(images)), images))
    return Estimate(sum(flagged) / n, low, high, n)


def _types(batches: Sequence[Batch], start: str) -> dict[str, tuple[int, int]]:
    before, since = Counter[str](), Counter[str]()
    for batch in batches:
        (before if batch.at < start else since).update(batch.types)
    return {kind: (before[kind], since[kind]) for kind in sorted({*before, *since})}


def _row(batch: Batch) -> dict[str, object]:
    medians = {what: values[_MEDIAN] for what, values in batch.quantiles.items()}
    scores, threshold = batch.quantiles["scores"], batch.threshold
    typical = None if threshold.value is None else excess_of(scores[_MEDIAN], threshold)
    return {
        "at": batch.at,
        "prediction": batch.prediction,
        "images": batch.images,
        "flagged": batch.flagged,
        "excess": typical,
        **medians,
        "scores_p95": scores[_HIGH],
        "odd_sizes": batch.odd_sizes,
        "rejected": batch.rejected,
        **{f"type_{kind}": count for kind, count in batch.types.items()},
    }
