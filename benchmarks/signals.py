"""Signals: how often an anomaly's kind is told rightly, on four real lines, on solar cells and on generated strips.

`python -m benchmarks.signals FOLDER` reads the lines below FOLDER (layout mvtec) and prints the table.

No image serves twice. Of each line's shuffled OK training images the first 42 make its references; OK test images
(solar cells: OK cells behind the first 120) are perturbed to evaluate, and the NG test images are evaluated as they
are. The method was designed, and its constants were set, on OK training images and on perturbations of the kinds that
are NAMED. Figures of earlier forms on the first SEEN of the OK test images are known: those behind them are evaluated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from benchmarks.perturbations import LEFT_OUT, NAMED
from benchmarks.visible import Usual
from raybench.analysis.anomaly_types.classifier import LIGHTING
from raybench.analysis.anomaly_types.classify import KINDS, classify
from raybench.analysis.anomaly_types.perturbations import Perturb, perturb
from raybench.analysis.anomaly_types.references import COUNT, ReferenceBank
from raybench.analysis.anomaly_types.views import Image
from raybench.cli.demo import Sizes, write_strips
from raybench.data.decode import decode_image

TESTED, REAL = 20, 100
TRIES = 20  # of a change of light
SEEN: Mapping[str, int] = {"mvtec_bottle": 8, "mvtec3d_tire": 10, "kolektor_sdd": 11, "deep_pcb": 17}
SEEN_CELLS = 20
STRIPS = Sizes(200, TESTED, 20, 0)  # so many to train that those to test were never made before
FOLDERS = ("mvtec_bottle", "mvtec3d_tire", "kolektor_sdd", "deep_pcb")
# Changes of layout that nobody could see on a line: left out beforehand, for what the line is. Changes of light are
# drawn until they leave what the line's OK training images show (see benchmarks/visible.py).
INVISIBLE: Mapping[str, frozenset[str]] = {
    "mvtec_bottle": frozenset({"rotate", "mirror", "turn"}),  # round, seen along its axis
    "kolektor_sdd": frozenset({"shift", "rotate", "mirror", "turn", "erase", "swap", "extra", "slip"}),  # has no parts
    "deep_pcb": frozenset(  # every image is another cut-out of another board, binarised
        {"shift", "mirror", "turn", "erase", "swap", "extra", "slip"}
    ),
    "solar-mono": frozenset({"mirror", "turn"}),  # cells are symmetric
    "solar-poly": frozenset({"mirror", "turn"}),
    "strip": frozenset({"mirror", "turn"}),
}


@dataclass(frozen=True)
class Line:
    """Paths of images. ng: real ones."""

    name: str
    train: Sequence[Path]
    test_ok: Sequence[Path]
    ng: Sequence[Path]

    def references(self) -> ReferenceBank:
        return ReferenceBank.of(map(read, self.train[:COUNT]))


@dataclass
class Tally:
    """Answers by (named, left out or real; kind; perturbation). unseen: what nobody could see, by perturbation."""

    answers: dict[tuple[str, str, str], Counter[str]] = field(default_factory=dict)
    sure: list[tuple[float, bool]] = field(default_factory=list)
    unseen: Counter[str] = field(default_factory=Counter)

    def right(self, group: str, kind: str | None = None) -> tuple[int, int]:
        """How many are right, of how many."""
        found = [(at[1], answers) for at, answers in self.answers.items() if at[0] == group and kind in (None, at[1])]
        return sum(answers[truth] for truth, answers in found), sum(answers.total() for _, answers in found)


def read(path: Path) -> Image:
    return decode_image(path.read_bytes())


def lines(folder: Path, work: Path) -> Iterator[Line]:
    for name in FOLDERS:
        at = folder / name
        if at.is_dir():
            yield _mvtec(name, at)
    yield _mvtec("strip", write_strips(work / "strip", STRIPS))
    for kind in ("mono", "poly"):
        yield _cells(kind)


def _mvtec(name: str, folder: Path) -> Line:
    ng = [path for path in sorted((folder / "test").glob("*/*")) if path.parent.name != "good"]
    seen = SEEN.get(name, 0)
    train, test_ok = (sorted((folder / split / "good").iterdir()) for split in ("train", "test"))
    return Line(name, _shuffled(train), _shuffled(test_ok)[seen : seen + TESTED], _shuffled(ng)[:REAL])


def _cells(kind: str) -> Line:
    import elpv_dataset

    data = Path(elpv_dataset.__file__).parent / "data"
    rows = [row.split() for row in (data / "labels.csv").read_text().splitlines()]
    ok, ng = (
        _shuffled([data / path for path, share, found in rows if found == kind and float(share) == wanted])
        for wanted in (0, 1)
    )
    return Line(f"solar-{kind}", ok[:120], ok[120 + SEEN_CELLS :][:TESTED], ng[40:80])


def _shuffled(paths: Sequence[Path]) -> list[Path]:
    order = np.random.default_rng(0).permutation(len(paths))
    return [paths[at] for at in order]


def perturbed(line: Line, usual: Usual, paths: Sequence[Path], named: bool) -> Iterator[tuple[str, str, Image | None]]:
    """Kind, perturbation, image; None in place of one that nobody could see."""
    for number, path in enumerate(paths):
        image = read(path)
        for kind, changes in (NAMED if named else LEFT_OUT).items():
            for change in changes:
                name = change.__name__
                if name not in INVISIBLE.get(line.name, ()):
                    rng = np.random.default_rng(zlib.crc32(f"{line.name} {number} {name}".encode()))
                    yield kind, name, _seen(image, change, rng, usual if kind == LIGHTING else None)


def _seen(image: Image, change: Perturb, rng: np.random.Generator, usual: Usual | None) -> Image | None:
    for _ in range(TRIES):
        made = perturb(image, change, rng)
        if made is None or usual is None or usual.is_left_by(made):
            return made
    return None


def evaluate(line: Line, tested: int) -> Tally:
    """All of a line's answers, printed as they are done."""
    tally, spent_s, images, started = Tally(), 0.0, 0, time.process_time()
    references, usual = line.references(), Usual.of(map(read, line.train))
    print(f"\n{line.name}: references in {time.process_time() - started:.1f} s of CPU", end="")
    sets = {
        "named": perturbed(line, usual, line.test_ok[:tested], named=True),
        "left out": perturbed(line, usual, line.test_ok[:tested], named=False),
        "real": ((_truth(path), path.parent.name, read(path)) for path in line.ng),
    }
    for group, samples in sets.items():
        for kind, name, image in samples:
            if image is None:
                tally.unseen[name] += 1
                continue
            started = time.process_time()
            found = classify(image, references)
            spent_s, images = spent_s + time.process_time() - started, images + 1
            tally.answers.setdefault((group, kind, name), Counter())[found.kind] += 1
            if group != "real":
                tally.sure.append((found.confidence, found.kind == kind))
    print(f", {1000 * spent_s / images:.0f} ms an image")
    for (group, kind, name), answers in tally.answers.items():
        others = ", ".join(f"{count} {answer}" for answer, count in answers.most_common() if answer != kind)
        print(f"  {group:9}{kind:9}{name:15}{answers[kind]:4} of {answers.total():3}  {others}")
    print(f"  not seen, and not evaluated: {dict(tally.unseen)}")
    return tally


def _truth(path: Path) -> str:
    """Real anomalies are defects, but for the strips' missing holes."""
    return "layout" if path.parent.name == "missing_hole" else "defect"


def summary(tallies: Mapping[str, Tally]) -> None:
    print(
        f"\n{'':14}"
        + "".join(f"{name:>15}" for name in (*(f"{kind}" for kind in KINDS), "all named", "left out", "real NG"))
    )
    total: Counter[tuple[str, str]] = Counter()
    for name, tally in tallies.items():
        cells: dict[str, tuple[int, int]] = {kind: tally.right("named", kind) for kind in KINDS}
        cells |= {"all": tally.right("named"), "left out": tally.right("left out"), "real": tally.right("real")}
        print(f"{name:14}" + "".join(f"{_share(*cell):>15}" for cell in cells.values()))
        for key, (right, of) in cells.items():
            real = key == "real" and name not in FOLDERS
            total[key, "right"] += 0 if real else right
            total[key, "of"] += 0 if real else of
    keys = (*KINDS, "all", "left out", "real")
    print(f"{'all':14}" + "".join(f"{_share(total[key, 'right'], total[key, 'of']):>15}" for key in keys))
    for kind in KINDS:
        found = [tally.right("left out", kind) for tally in tallies.values()]
        print(f"left out, {kind}: {_share(sum(right for right, _ in found), sum(of for _, of in found))}")
    sure = [one for tally in tallies.values() for one in tally.sure]
    for least in (0.5, 0.7, 0.9):
        kept = [right for confidence, right in sure if confidence >= least]
        print(f"confidence {least} and more: {len(kept) / len(sure):.0%} of the images, {np.mean(kept):.1%} right")


def _share(right: int, of: int) -> str:
    return f"{right / of:.1%} ({of})" if of else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--line", action="append", help="this line only; may be repeated")
    parser.add_argument("--images", type=int, default=TESTED, help="OK test images of each line to perturb")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, ProcessPoolExecutor(options.processes, initializer=_alone) as pool:
        found = [line for line in lines(options.folder, Path(work)) if line.name in (options.line or [line.name])]
        names = [line.name for line in found]
        tallies = pool.map(evaluate, found, [options.images] * len(found))
        summary(dict(zip(names, tallies, strict=True)))


def _alone() -> None:
    cv2.setNumThreads(1)


if __name__ == "__main__":
    main()
