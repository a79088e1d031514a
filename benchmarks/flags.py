"""What the annotation budget buys on real lines: `python -m benchmarks.flags FOLDER` packs every line below FOLDER
(layout mvtec), trains two quick models on each (128 × 128 pixels, CPU preset, no Ray, speeds not measured) and prints

- for some budgets, with labels hidden: the share of NG images among those picked, the defect types and the reach of the
  picked, beside the highest mean excess alone and chance;
- the same on *lopsided* lines, which keep all NG images of one defect type and RARE of each other type, in turn;
- on lines into whose OK training images so many NG images were mixed that they make DIRT of them: how many of those
  that were held back are found suspicious, and how many clean ones are.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raybench.analysis.board import Board, BoardContext, build_board
from raybench.analysis.flags import ScoredImage, collect_scores, voting_models
from raybench.analysis.queue_builder import QueueBuilder
from raybench.analysis.queue_evaluation import QueueEvaluation, evaluate_queue
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.catalog import packed_lines
from raybench.data.pack import PackOptions, pack
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Speed
from raybench.runs.records import MeasureRecord, ModelSize, ResourceUsage, TrainRecord
from raybench.runs.run import RunStore
from raybench.store import Store, open_store
from raybench.worker.context import WorkerContext
from raybench.worker.merge import Partials, finalize, merge
from raybench.worker.score import score
from raybench.worker.train import train

MODELS = ("dfm", "padim")
BUDGETS = (5, 10, 20, 40)
RARE, DIRT = 2, 0.1
WORK = Path("out/flags")
_NO_TIME = Speed(1.0, 1.0, 1.0, 1.0, 1.0, 1, "", "", 1)


@dataclass(frozen=True)
class Done:
    """A finished run: its board, and all images by line."""

    plan: Plan
    run: RunStore
    board: Board
    seen: dict[str, list[ScoredImage]]

    def desk(self) -> QueueBuilder:
        return QueueBuilder(self.plan, self.run, self.board, self.plan.units)


def main(source: Path, work: Path = WORK) -> None:
    store = open_store(str(work / "store"))
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as spoilt:
        for folder in folders:
            _pack(folder, store, folder.name)
            _pack(_soiled(folder, Path(spoilt, folder.name)), store, f"{folder.name}-soiled")
    names = [folder.name for folder in folders]
    _print_payoffs(_done(store, names, 0.2, work))
    _print_soiled(_done(store, [f"{name}-soiled" for name in names], 0.5, work))


def _pack(folder: Path, store: Store, line: str) -> None:
    if line not in packed_lines(store.sub("lines")):
        pack(open_store(str(folder)), store.sub("lines"), line, PackOptions())


def _soiled(folder: Path, target: Path) -> Path:
    """A copy of the line with evenly chosen NG images moved among the OK training images, named `soiled-…`."""
    shutil.copytree(folder, target)
    for path in (target, *target.rglob("*/")):
        path.chmod(0o700)  # data sets are often read-only
    bad = sorted(path for path in (target / "test").rglob("*") if path.is_file() and path.parent.name != "good")
    ok = len(list((target / "train" / "good").iterdir()))
    for path in bad[:: max(1, round(len(bad) / (DIRT * ok)))]:
        path.rename(target / "train" / "good" / f"soiled-{path.parent.name}-{path.name}")
    shutil.rmtree(target / "ground_truth")
    return target


def _done(store: Store, lines: Sequence[str], held_out: float, work: Path) -> Done:
    chosen = Experiment(
        name=f"flags-{held_out}",
        store=store.uri(),
        lines=tuple(lines),
        models=tuple(ModelChoice(name=name) for name in MODELS),
        held_out=held_out,
        annotation=Annotation(budget=max(BUDGETS)),
        input=InputChoice(pixels=128 * 128),
        squashed_twins=False,
        preset="cpu",
    )
    plan = make_plan(chosen)
    run = RunStore(store, chosen.name)
    cache = work / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    context = WorkerContext(run, store.sub("lines"), cache, "cpu", 1)
    results, scores = [], {}
    for unit in plan.units:
        manifest = plan.manifests[unit.line]
        print(f"{unit}", file=sys.stderr, flush=True)
        train(unit, manifest, context)
        for shard in manifest.scored_shards:
            score(unit, manifest, shard, context)
        merge(unit, manifest, run, Partials())
        nothing = ResourceUsage(0.0, 0, 0.0, 0.0, "cpu")
        run.commit(unit.detector_id, "measure", MeasureRecord(unit.detector_id, _NO_TIME, ModelSize(1.0, 1), nothing))
        result = finalize(unit, run)
        results.append(result)
        scores[unit.unit_id] = ImageScores.from_bytes(run.get_blob(result.judged.images))
    board = build_board(results, scores, BoardContext(run.name, "", "", {}, chosen.false_alarm_budget))
    seen = collect_scores(results, scores, {verdict.line: voting_models(verdict) for verdict in board.verdicts})
    by_line = {line: list(group) for line, group in itertools.groupby(seen, key=lambda one: one.line)}
    return Done(plan, run, board, by_line)


def _print_payoffs(done: Done) -> None:
    desk = done.desk()
    for line, seen in done.seen.items():
        traits = desk.descriptors(line)
        auroc = {
            row.model: row.finished.quality.image_auroc.value
            for row in done.board.rows_of(line)
            if row.finished and row.model in voting_models(done.board.verdict_on(line))
        }
        print(f"\n{line}: {', '.join(f'{model} {value:.3f}' for model, value in auroc.items())} have a say")
        _print_row("", ["NG picked", "by score", "at random", "types", "by score", "reach", "by score"])
        for budget in BUDGETS:
            _print_row(f"budget {budget}", _cells([evaluate_queue([], seen, traits, budget, 0)]))
        for budget in BUDGETS[:3]:
            found = [evaluate_queue([], part, traits, budget, 0) for part in _lopsided(seen, traits)]
            if found:
                _print_row(f"lopsided, budget {budget}", _cells(found))


def _lopsided(seen: Sequence[ScoredImage], traits: Descriptors) -> Iterator[list[ScoredImage]]:
    types = dict(zip(traits.image_ids.tolist(), traits.defect_types.tolist(), strict=True))
    kinds = sorted({types[one.image_id] for one in seen if one.label == "ng"})
    for often in kinds if len(kinds) > 1 else ():
        left = dict.fromkeys(kinds, RARE) | {often: len(seen)}
        kept = []
        for one in sorted(seen, key=lambda one: one.image_id):
            kind = types[one.image_id]
            if one.label == "ng" and left[kind] > 0:
                left[kind] -= 1
                kept.append(one)
        yield [*kept, *(one for one in seen if one.label == "ok")]


def _cells(found: Sequence[QueueEvaluation]) -> list[str]:
    """Means; with intervals where there is one."""

    def share(name: str) -> str:
        numbers = [getattr(one, name) for one in found]
        value = statistics.fmean(number.value for number in numbers)
        return f"{value:.2f} ({numbers[0].low:.2f}–{numbers[0].high:.2f})" if len(numbers) == 1 else f"{value:.2f}"

    shares = [share(name) for name in ("precision", "by_score", "at_random")]
    spreads = [[one.spread for one in found], [one.spread_by_score for one in found]]
    types = [f"{statistics.fmean(one.types or 0 for one in of):.1f} of {found[0].types}" for of in spreads]
    reach = [f"{statistics.fmean(one.reach or 0.0 for one in of):.2f}" for of in spreads]
    return [*shares, *types, *reach]


def _print_row(name: str, cells: Sequence[str]) -> None:
    print(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells))


def _print_soiled(done: Done) -> None:
    print(f"\nOK training images of which {DIRT:.0%} are NG, half of them held back")
    _print_row("", ["soiled", "found", "clean", "found"])
    for line, queue in zip(done.seen, (done.desk().queue(seen) for seen in done.seen.values()), strict=True):
        unit = next(unit for unit in done.plan.units if unit.line == line)
        trained = done.run.read(unit.detector_id, "train", TrainRecord)
        assert trained is not None
        held_back = ImageScores.from_bytes(done.run.get_blob(trained.held_out)).image_ids.tolist()
        found = {flag.image_id for flag in queue.flags if "suspicious training image" in flag.kinds}
        soiled = {image for image in held_back if "soiled-" in image}
        counts = [len(soiled), len(soiled & found), len(held_back) - len(soiled), len(found - soiled)]
        _print_row(line, [str(count) for count in counts])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else WORK)
