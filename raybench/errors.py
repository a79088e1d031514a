"""Everything raybench raises on purpose, as one tree.

RaybenchError
├── InputError              the user can mend it: one clear message, exit code 2, no traceback
│   ├── ExperimentError     every fault of an experiment file, listed at once
│   ├── LineError           a product line that cannot be read, or has no OK images to train on
│   ├── RejectedImage       one image that is not packed; carries the reason written to the manifest
│   └── UnknownName         a model, layout or key that does not exist, with the closest that does
├── StoreError              object storage
│   ├── StoreUnreachable    no answer from the endpoint, or only ones of a server in trouble
│   ├── StoreDenied         credentials missing or refused
│   ├── BucketMissing       the bucket does not exist
│   ├── ObjectMissing       the key does not exist
│   └── UnsafeStore         conditional PUT is not honoured, so commits could be lost
├── RunStopped              a signal ended the run early; nothing is lost, the same command goes on
├── TimeLimit               a unit that took longer than the experiment allows
├── IntegrityError          bytes that are not what was written (size, digest, page checksum, schema)
└── ModelError              a detector
    ├── WeightsMissing      weights that must be there and are not, with the remedy
    ├── WeightsCorrupt      weights whose sha256 is not the expected one
    └── BadScores           scores or heat maps that are not finite or not of the promised shape
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

SHOWN_NAMES = 30


class RaybenchError(Exception):
    """Base of every error raybench raises on purpose."""


class InputError(RaybenchError):
    """The user's input cannot be used as it is; the message names the remedy."""


class ExperimentError(InputError):
    """An experiment that cannot run; `problems` holds every fault found, one sentence each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__(f"{where}: {count}\n" + "\n".join(f"  - {text}" for text in self.problems))

    def __reduce__(self) -> tuple[type[ExperimentError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.problems)


class LineError(InputError):
    """A product line that cannot be packed, read or trained on."""


class RejectedImage(InputError):
    """One image (or its mask) that is left out of a line.

    `reason` is a short stable word for the manifest, `detail` a sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type[RejectedImage], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class UnknownName(InputError):
    """A name that does not exist, with the closest one that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; {did_you_mean(name, self.known)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class StoreError(RaybenchError):
    """Object storage failed in a way that trying again does not mend."""


class StoreUnreachable(StoreError):
    """The endpoint did not answer, broke off, or answered that it is in trouble (5xx): later it may be well again."""


class StoreDenied(StoreError):
    """Credentials are missing or were refused."""


class BucketMissing(StoreError):
    """The bucket does not exist."""


class ObjectMissing(StoreError):
    """The key does not exist."""


class UnsafeStore(StoreError):
    """The store ignores `If-None-Match`, so two writers could both believe they committed."""


class RunStopped(RaybenchError):
    """A signal asked the run to end; what is committed stays, and the same command does the rest."""


class TimeLimit(RaybenchError):
    """A unit took longer than `resources.unit_timeout_s`."""


class IntegrityError(RaybenchError):
    """Stored bytes are not the bytes that were written."""


class ModelError(RaybenchError):
    """A detector cannot be built, trained or used."""


class WeightsMissing(ModelError):
    """Weights are not where they must be; the message names the file and the remedy."""


class WeightsCorrupt(ModelError):
    """Weights do not have the sha256 they must have."""


class BadScores(ModelError):
    """A detector returned scores or heat maps that are not finite or not of the promised shape."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half-sentence that names the closest known name, or all of them (at most 30) when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"known: {', '.join(names[:SHOWN_NAMES])}{more}"
