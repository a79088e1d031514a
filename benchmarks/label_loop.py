"""How labels that come back make a verdict surer: `python -m benchmarks.label_loop LINE` plays the annotator of a line.

LINE is a folder in the mvtec layout. Its training images, 8 OK and 2 NG test images are labelled at first; all others
are new images of which nobody has said anything. Each turn takes the images that the annotation queue picks, labels
them as the folder does, and runs again: nothing is trained after the first turn, which the last column shows. The row
"all" is the line with all labels: what a verdict should come to.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from pathlib import Path

import raybench as rb
from raybench.store import open_store

MODELS = ("padim", "patchcore", "dfm", "stfpm")
TURNS, PER_TURN, OK, NG = 5, 16, 8, 2


def main(source: Path) -> None:
    truth = {
        path.relative_to(source).as_posix(): "ok" if path.parent.name == "good" else "ng"
        for path in sorted((source / "test").rglob("*"))
        if path.is_file()
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder, store = Path(temporary, "images"), Path(temporary, "store")
        folder.mkdir()
        for part in ("train", "test", "ground_truth"):
            (folder / part).symlink_to((source / part).resolve())
        _write_table(folder, source, truth)
        rb.pack(folder, to=store, name=source.name, progress=False)
        experiment = rb.Experiment(
            name="loop",
            store=str(store),
            lines=(source.name,),
            models=tuple(rb.ModelChoice(name=name) for name in MODELS),
            preset="cpu",
            squashed_twins=False,
            annotation={"budget": PER_TURN},
        )
        print("| turn | labelled OK, NG | counted OK, NG | run this | sure | image AUROC | seconds | trained anew |")
        print("|---|---|---|---|---|---|---|---|")
        trained: set[str] = set()
        for turn in range(TURNS):
            started = time.monotonic()
            run = rb.run(experiment, progress=False)
            seconds = time.monotonic() - started
            found = {item.key for item in open_store(str(store)).list("units/") if item.key.endswith("/train.json")}
            _print_turn(run, source.name, turn, seconds, len(found - trained))
            trained = found
            _label(run, source, truth, Path(temporary), [name for name in _picked(run, source.name) if name in truth])
        _label(run, source, truth, Path(temporary), list(truth))
        _print_turn(rb.run(experiment, progress=False), source.name, "all", 0.0, 0)


def _write_table(folder: Path, source: Path, truth: dict[str, str]) -> None:
    """Write the table of a line of which few images are labelled."""
    known = set[str]()
    for label, count in (("ok", OK), ("ng", NG)):
        names = [name for name in truth if truth[name] == label]
        known |= {names[index * len(names) // count] for index in range(count)}
    with (folder / "images.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "split", "label", "mask"))
        for path in sorted((source / "train").rglob("*")):
            if path.is_file():
                table.writerow((path.relative_to(source).as_posix(), "train", "ok", ""))
        for name, label in truth.items():
            is_known = name in known
            mask = _mask_of(source, name) if is_known and label == "ng" else ""
            table.writerow((name, "test" if is_known else "unlabelled", label if is_known else "", mask))


def _mask_of(source: Path, name: str) -> str:
    path = Path(name)
    return next((source / "ground_truth" / path.parent.name).glob(f"{path.stem}_mask.*")).relative_to(source).as_posix()


def _picked(run: rb.Run, line: str) -> list[str]:
    flags = run.flags(line)
    names: list[str] = flags[flags["picked"]]["image_id"].tolist()
    return names


def _label(run: rb.Run, source: Path, truth: dict[str, str], folder: Path, picked: list[str]) -> None:
    """Say of some images what the folder says: a decision for OK ones, a mask for NG ones."""
    with (folder / "decisions.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("image_id", "decision"))
        table.writerows((name, "ok") for name in picked if truth[name] == "ok")
    rb.import_labels(f"{run.experiment.store}/lines/{source.name}", folder / "decisions.csv")
    masks = Path(tempfile.mkdtemp(dir=folder))
    for name in (name for name in picked if truth[name] == "ng"):
        target = masks / Path(name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((source / _mask_of(source, name)).read_bytes())
    if any(masks.iterdir()):
        rb.import_labels(f"{run.experiment.store}/lines/{source.name}", masks)


def _print_turn(run: rb.Run, line: str, turn: int | str, seconds: float, trained: int) -> None:
    verdict, counts = run.verdict(line), rb.plan(run.experiment).manifests[line]
    cells = run.board().to_dict("index").get((line, verdict.run), {})
    low, auroc, high = (cells.get(f"image_auroc{end}", float("nan")) for end in ("_low", "", "_high"))
    shown = f"{auroc:.3f} ({low:.3f}–{high:.3f})"
    sure = "" if verdict.sure is None else f"{verdict.sure:.0%}"
    labelled = f"{counts.judged('ok')}, {counts.judged('ng')}"
    counted = ", ".join(str(cells.get(f"images_test_{label}", "")) for label in ("ok", "ng"))
    row = (turn, labelled, counted, verdict.run or "–", sure, shown, f"{seconds:.0f}", trained)
    print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
