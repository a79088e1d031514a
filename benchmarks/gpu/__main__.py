"""`python -m benchmarks.gpu`: the acceptance of raybench on a GPU; `make bench-gpu`.

Each part runs in a process of its own, with a limit, and findings are appended to accept.jsonl in the output folder.
`--device cpu --quick` rehearses everything without a GPU. `--package FOLDER` runs another version of raybench.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.session import MODELS, Finding, Session, read, verdict

ROOT = Path(__file__).parents[2]
LIMITS_S: Mapping[str, float] = {
    "environment": 90,
    "equal": 130,
    "judged": 40,
    "cpu_only": 50,
    "train": 200,
    "unit": 200,
    "memory": 100,
    "poisoned": 40,
}
"""The parts in their order, and the seconds that each may take on a GPU."""
LEAST_S = 10.0
_WIDTH = 200  # of a row of the table


def main() -> None:
    """Run the chosen parts and print the table. Exits with 1 if a row has failed."""
    chosen = _arguments()
    chosen.out.mkdir(parents=True, exist_ok=True)
    session = Session(
        device=chosen.device,
        quick=chosen.quick,
        out=chosen.out.resolve(),
        label=chosen.label,
        models=tuple(filter(None, chosen.models.split(","))),
        threads=chosen.threads,
        seconds=chosen.seconds,
    )
    if chosen.child:
        _run_here(chosen.parts[0], session)
        return
    earlier = len(read(session.out, session.label))
    _run_all(chosen.parts or list(LIMITS_S), session, chosen)
    findings = read(session.out, session.label)[earlier:]
    print(table(findings))
    sys.exit(any(finding["passed"] is False for finding in findings))


def _run_here(part: str, session: Session) -> None:
    """Import everything, wait until it is this part's turn, and run it."""
    module = importlib.import_module(f"benchmarks.gpu.parts.{part}")
    importlib.import_module("raybench.detectors.anomalib_parts")
    if sys.stdin.readline():
        module.run(session)


def _run_all(parts: Sequence[str], session: Session, chosen: argparse.Namespace) -> None:
    """Run parts one after the other. The next one is started early, because imports take many seconds."""
    ends = time.monotonic() + chosen.deadline_s
    waiting = _start(parts[0], chosen)
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        process, waiting = waiting, _start(following, chosen) if following else waiting
        left, started = ends - time.monotonic(), time.monotonic()
        if left < LEAST_S:
            process.kill()
            session.note(part, "all", Finding(False, {"why": "no time left"}))
            continue
        limit = min(LIMITS_S[part], left) if session.device == "cuda" else left
        try:
            process.communicate("go\n", timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            session.note(part, "all", Finding(False, {"why": f"not done after {limit:.0f} s"}))
        else:
            if process.returncode:
                session.note(part, "all", Finding(False, {"why": f"ended with {process.returncode}"}))
        print(f"{session.label} {part}: {time.monotonic() - started:.1f} s", flush=True)


def _start(part: str, chosen: argparse.Namespace) -> subprocess.Popen[str]:
    """Start the process of a part, which imports the chosen version of the package."""
    paths = [chosen.package, ROOT, os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path)}
    options = ["device", "models", "label", "threads", "seconds"]
    given = [f"--{name}={getattr(chosen, name)}" for name in options] + ["--quick"] * chosen.quick
    command = [sys.executable, "-P", "-W", "ignore", "-m", "benchmarks.gpu", part, "--child", *given]
    command.append(f"--out={chosen.out.resolve()}")
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, text=True)


def table(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return one row per finding: part, row, verdict, and what was found."""
    rows = []
    for finding in findings:
        known = ("label", "part", "row", "passed", "trace")
        values = " ".join(f"{key}={_short(value)}" for key, value in finding.items() if key not in known)
        head = f"{finding['part']:11} {finding['row']:20} {verdict(finding['passed']):4}"
        rows.append(f"{head} {values}"[:_WIDTH])
    failed = sum(finding["passed"] is False for finding in findings)
    return "\n".join([*rows, f"{len(findings)} findings, {failed} failed"])


def _short(value: Any) -> str:
    """Return a value as JSON without spaces and quotes, with three significant digits."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_short(one)}" for key, one in value.items()) + "}"
    return json.dumps(value, separators=(",", ":")).replace('"', "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*LIMITS_S, []], help="parts to run; all without any")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--quick", action="store_true", help="small images and few steps, to see whether the code works"
    )
    parser.add_argument("--models", default="", help=f"names with commas between them, of {', '.join(MODELS)}")
    parser.add_argument("--package", type=Path, help="folder with another version of raybench/")
    parser.add_argument("--label", default="new", help="name of that version in the findings")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "out" / "gpu")))
    parser.add_argument("--deadline-s", type=float, default=540.0, help="time limit of all parts together")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a task in the part `unit`")
    parser.add_argument("--seconds", type=float, default=5.0, help="time budget of one training")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.package:
        chosen.package = chosen.package.resolve()
        if not (chosen.package / "raybench").is_dir():
            parser.error(f"{chosen.package} holds no raybench/")
    return chosen


if __name__ == "__main__":
    main()
