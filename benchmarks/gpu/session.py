"""What every part of the acceptance gets: its options, and where its findings go."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODELS = (
    "dfm",
    "padim",
    "patchcore",
    "stfpm",
    "reverse_distillation",
    "fastflow",
    "cflow",
    "supersimplenet",
    "efficient_ad",
    "draem",
)
FILE = "accept.jsonl"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    passed: bool | None
    """Whether it keeps its limits. None: it is a figure without a limit."""
    values: Mapping[str, Any]
    """What was found, as JSON values."""


@dataclass(frozen=True)
class Session:
    """Options of a run of the acceptance."""

    device: str
    """Torch's name of the device: "cuda", or "cpu" for a rehearsal."""
    quick: bool
    """Small images and few steps: whether the code works, not what it measures."""
    out: Path
    """Folder of the findings."""
    label: str
    """Name of the version of the package, for comparisons."""
    models: tuple[str, ...] = ()
    """Models to check. Empty: those of the part."""
    threads: int = 1
    """CPU threads of a task in the part `unit`."""
    seconds: float = field(default=5.0)
    """Time budget of one training, in seconds."""

    def chosen(self, models: Iterable[str]) -> list[str]:
        """Return those of a part's models that were asked for; one of them in a quick run."""
        kept = [name for name in models if not self.models or name in self.models]
        return kept[:1] if self.quick and not self.models else kept

    def note(self, part: str, row: str, finding: Finding) -> None:
        """Append a finding to the file and say its verdict."""
        line = {"label": self.label, "part": part, "row": row, "passed": finding.passed, **finding.values}
        with (self.out / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
        print(f"{self.label} {part} {row}: {verdict(finding.passed)}", flush=True)

    def check(self, part: str, rows: Iterable[str], check: Callable[[str], Finding]) -> None:
        """Note the finding of each row. A check that raises has failed; the others go on."""
        for row in rows:
            try:
                finding = check(row)
            except Exception as error:
                trace = traceback.format_exc()[-1500:]
                finding = Finding(False, {"error": f"{type(error).__name__}: {error}"[:300], "trace": trace})
            self.note(part, row, finding)


def verdict(passed: bool | None) -> str:
    """Return the word for the table."""
    return "-" if passed is None else "pass" if passed else "FAIL"


def read(out: Path, label: str) -> list[dict[str, Any]]:
    """Return the findings of one version of the package so far."""
    path = out / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["label"] == label]
