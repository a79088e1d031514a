"""The Python API: pack folders, run comparisons, read runs. The command line stands on it.

Nothing here imports Ray before something has to be computed on it, so that a finished run is read in a moment.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from rich.console import Console

from raybench.analysis.board import Board, board_from_json
from raybench.analysis.findings import analyze
from raybench.analysis.flags import collect_scores, voting_models
from raybench.analysis.learning_curve import SIZES, CurvePoint, conclude, curve_frame, curve_points
from raybench.analysis.run_comparison import RunComparison, compare_runs
from raybench.analysis.run_summary import RunSummary
from raybench.analysis.select import select_unit
from raybench.analysis.slices import slice_frame, slices_of
from raybench.analysis.verdict import Verdict
from raybench.config.experiment import LEAST_TRAIN_IMAGES, Experiment, ModelChoice
from raybench.config.plan import Plan, check_models, make_plan, open_experiment_store, plan_of
from raybench.config.unit import Unit
from raybench.data.decode import decode_image, decode_mask
from raybench.data.geometry import to_source
from raybench.data.line import Line, rewritten_images
from raybench.data.manifest import Manifest
from raybench.data.source import add_from, name_of, pack_from, pack_if_changed
from raybench.detectors import registry
from raybench.errors import InputError, ModelError, ObjectMissing, RunStopped, UnknownName
from raybench.metrics.image import ImageScores
from raybench.report import cache
from raybench.report.annotations import read
from raybench.report.annotations.read import LabelImport
from raybench.report.columns import board_frame
from raybench.report.console import console_outcome
from raybench.report.notebook import BoardFrame, Heatmap
from raybench.report.pictures import scored_images
from raybench.report.predictions import PAGE, TABLE
from raybench.report.progress import pack_bar
from raybench.report.publish import download, publish_again
from raybench.runs.at_work import working
from raybench.runs.ledger import Ledger
from raybench.runs.records import QualityRecord, TrainRecord, UnitResult
from raybench.runs.run import RunStore
from raybench.runs.status import unit_statuses
from raybench.scheduler.new_images import NewImages, predict_images
from raybench.store import Store, open_store
from raybench.worker.context import fit_of, node_cache

if TYPE_CHECKING:
    from raybench.report.onnx_export import Exported

STORE, LAYOUT = "raybench-store", "auto"


class Run:
    """A run: its comparison, verdicts, images and heat maps. Everything is read from the store when it is asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._store = RunStore.of(plan)

    def __repr__(self) -> str:
        return f"Run({self.uri!r})"

    @property
    def name(self) -> str:
        return self.plan.experiment.name

    @property
    def uri(self) -> str:
        """Where the run lies; `open_run` takes it."""
        return self.plan.store.uri(self._store.root)

    @property
    def experiment(self) -> Experiment:
        return self.plan.experiment

    @property
    def lines(self) -> list[str]:
        """The names of the run's product lines."""
        return list(self.plan.manifests)

    def board(self) -> pd.DataFrame:
        """Return the comparison: a row per line and model, each number with its 95 % interval.

        Returns:
            Index: line, model. Columns: as in `board.csv`; a number `x` has its interval in `x_low` and `x_high`.
        """
        return BoardFrame(board_frame(self._board()).set_index(["line", "model"]))

    def verdict(self, line: str) -> Verdict:
        """Return which model `line` should run, how sure that is, and why, as the latest report says.

        Raises:
            UnknownName: There is no such line.
            InputError: The report has no results on the line.
        """
        board = self._board()
        if self._known(line) not in board.lines:
            raise InputError(f"the report of {self.uri} has no results on {line}; run the experiment first")
        return board.verdict_on(line)

    def status(self) -> pd.DataFrame:
        """Return how far each unit is: waiting, trained, failed or done."""
        ledger = Ledger.read(self._store)
        units = unit_statuses(self.plan, ledger.commits(self.plan.units))
        columns = ("line", "model", "seed", "state", "scored_shards", "shards", "unit_id")
        frame = pd.DataFrame([vars(unit) for unit in units], columns=list(columns))
        return frame.set_index(["line", "model", "seed"])

    def flags(self, line: str | None = None) -> pd.DataFrame:
        """Return the annotation queue: which images a person should look at, and why, the most useful first.

        Args:
            line: Only the flags of this line.
        """
        data = self._reported("flags.parquet")
        names = {f"signal{part}": f"anomaly_type{part}" for part in ("", "_confidence", "_evidence")}
        frame = pd.read_parquet(io.BytesIO(data)).rename(columns=names)
        return frame if line is None else frame[frame["line"] == self._known(line)].reset_index(drop=True)

    def slices(self, line: str, model: str | None = None) -> pd.DataFrame:
        """Return how a model does on the images of each camera, lot or light, as the packed table names them.

        Args:
            line: The product line.
            model: Label of the model. None: the one that the verdict names.

        Returns:
            Index: attribute, value. Columns: ok, ng (numbers of images), recall and false_alarm_rate, each with its
            interval in `_low` and `_high`, and p: whether the slice's false alarms differ from all others', see
            `analysis.slices`.

        Raises:
            UnknownName: There is no such line or model.
            InputError: The model is not finished on the line.
        """
        unit = select_unit(self.plan, line, model)
        found = self._scores(line).get(unit.model)
        if found is None:
            raise InputError(f"{unit} is not finished yet; run the experiment first")
        attributes = self.plan.line(line).attributes()
        return slice_frame(slices_of(line, unit.model, found[1], found[0].trained.threshold, attributes))

    def learning_curve(
        self,
        line: str,
        sizes: Sequence[int] = SIZES,
        *,
        models: Sequence[str] = (),
        address: str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Train the line's models on fewer of its OK images, and return how image AUROC grows with their number.

        Each number is a run of its own, `<run>.<line>-<number>-images`, in the same store; the same call resumes.

        Args:
            line: The product line.
            sizes: Numbers of OK images, those that are held back included; larger ones contain smaller ones. Those
                from the run's own number on are left out.
            models: Labels of the models. Empty: all of the line's.
            address: Ray cluster, as in `run`.
            progress: Whether to show bars.

        Returns:
            Index: model, images. Columns: image_auroc, more (image AUROC with all images minus this, on the same test
            images), each with its interval in `_low` and `_high`, and has_threshold. `attrs["conclusions"]` says from
            which number of images on more of them surely do not help.

        Raises:
            UnknownName: There is no such line or model.
            InputError: The run is not finished on the line, or a size is below 4.
        """
        points = self._curve(self._known(line), sizes, models, address, _console(progress))
        frame = curve_frame(points)
        frame.attrs["conclusions"] = conclude(points, self.experiment.verdict.margin)
        return frame

    def _curve(
        self, line: str, sizes: Sequence[int], models: Sequence[str], address: str | None, console: Console | None
    ) -> list[CurvePoint]:
        own = self.experiment.on(line)
        choices = {choice.shown: choice for choice in own.models}
        for model in models:
            if model not in choices:
                raise UnknownName("model", model, choices)
        if few := [size for size in sizes if size < LEAST_TRAIN_IMAGES]:
            raise InputError(f"{few[0]} OK images are too few to train on; the least is {LEAST_TRAIN_IMAGES}")
        finished, total = self._scores(line), own.protocol.of_train(self.plan.manifests[line].train_ok)
        chosen = {model: found for model, found in finished.items() if model in (models or choices)}
        if not chosen:
            raise InputError(f"no model is finished on {line}; run the experiment first")
        found = {total: chosen}
        for size in sorted({size for size in sizes if size < total}):
            smaller = {
                "name": f"{self.name}.{line}-{size}-images",
                "lines": (self.plan.entry_of(line),),
                "models": tuple(choices[model] for model in chosen),
                "train_images": size,
                "inspect": False,
                "squashed_twins": False,
                "annotation": own.annotation.model_copy(update={"signals": 0}),
            }
            plan = make_plan(Experiment.model_validate(own.model_dump() | smaller))
            execute(plan, address, console)
            found[size] = Run(plan)._scores(line)
        return curve_points(found)

    def images(self, line: str) -> pd.DataFrame:
        """Return every test and unlabelled image of `line` as all models see it, the most anomalous first.

        Returns:
            Index: image_id. Columns: label; `score_<model>` in the model's own unit, of its first finished seed;
            excess, the mean over the models that count of how far the score lies above the threshold (-1 at a typical
            OK image, 0 at the threshold, 1 twice as far); flags and reasons, empty where nobody needs to look;
            anomaly_type, None where no kind is known.
        """
        scores = self._scores(self._known(line))
        results = [result for result, _ in scores.values()]
        voting = {line: voting_models(self.verdict(line))}
        seen = collect_scores(results, {result.unit_id: found for result, found in scores.values()}, voting)
        columns: dict[str, pd.Series[Any]] = {}
        for model, (_, found) in scores.items():
            columns.setdefault("label", pd.Series(found.labels.astype(object), found.image_ids))
            columns[f"score_{model}"] = pd.Series(found.scores, found.image_ids)
        frame = pd.DataFrame(columns).rename_axis("image_id")
        frame["excess"] = pd.Series({image.image_id: image.score for image in seen}, dtype=float)
        flags = self.flags(line).set_index("image_id")
        frame["flags"] = flags["kinds"].map(", ".join).reindex(frame.index).fillna("")
        frame["reasons"] = flags["reason"].reindex(frame.index).fillna("")
        frame["anomaly_type"] = flags["anomaly_type"].reindex(frame.index)
        return frame.sort_values("excess", ascending=False, kind="stable")

    def heatmap(self, line: str, image_id: str, model: str | None = None) -> Heatmap:
        """Return the heat map of a test or unlabelled image.

        Args:
            line: The product line.
            image_id: The image's path in the folder that was packed.
            model: Label of the model. None: the one that the verdict names.

        Raises:
            UnknownName: There is no such line, model or image.
            InputError: The model is not trained, or makes no heat maps.
        """
        unit = select_unit(self.plan, line, model)
        manifest, trained = self.plan.manifests[line], self._store.read(unit.detector_id, "train", TrainRecord)
        if trained is None:
            raise InputError(f"{unit} is not trained yet; run the experiment first")
        found = next(scored_images(self.plan, self._store, unit, manifest, {image_id}), None)
        if found is None:
            raise UnknownName("image", image_id, self._image_ids(unit))
        row, scored = found
        if scored.heatmap is None:
            raise InputError(f"{unit.model} makes no heat maps")
        return Heatmap(
            line=line,
            image_id=image_id,
            label=row.label,
            model=unit.model,
            score=scored.score,
            is_anomalous=scored.is_anomalous,
            image=decode_image(row.image, manifest.white_level, manifest.black_level),
            values=to_source(scored.heatmap, fit_of(unit), row.height, row.width),
            mask=decode_mask(row.mask, row.height, row.width) if row.mask else None,
            low=trained.heat_low,
            high=trained.heat_high,
        )

    def predict(
        self,
        images: str | Path,
        *,
        line: str,
        model: str | None = None,
        name: str | None = None,
        folder: str | Path = "out",
        address: str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Score new images with a trained detector of this run. The same call resumes.

        Args:
            images: A folder: a path, s3:// or any fsspec URI.
            line: The product line whose detector is used.
            model: Label of the model. None: the one that the verdict names.
            name: The prediction's name in the store. None: the last part of the folder's.
            folder: Local folder for the table and a page of the most anomalous images.
            address: Ray cluster to score on. None: RAY_ADDRESS, else this process.
            progress: Whether to show a bar.

        Returns:
            A row per image: image_id, score, is_anomalous, threshold, excess, height, width, odd_size. The attribute
            `attrs["page"]` is the path of the page.

        Raises:
            ModelError: Some images could not be scored. The rest is in the store.
        """
        new = NewImages(str(images), line, model, name)
        scored = predict_images(self.plan, new, Path(folder), address, _console(progress))
        if scored.failed:
            faults = "; ".join(
                f"{shard}: {fault.error_type}: {fault.message}" for shard, fault in scored.failed.items()
            )
            raise ModelError(
                f"{scored.summary.not_scored} images could not be scored, the same call tries again: {faults}"
            )
        frame = pd.read_parquet(scored.folder / TABLE)
        frame.attrs["page"] = str(scored.folder / PAGE)
        return frame

    def export(
        self, line: str, folder: str | Path, model: str | None = None, size: tuple[int, int] | None = None
    ) -> Exported:
        """Write a line's detector as ONNX (and OpenVINO) from source pixels to the decision, checked against it.

        Args:
            line: The product line.
            folder: Local folder for the files.
            model: Label of the model. None: the one that the verdict names.
            size: Height and width of the images that the file takes. None: those of the line's images, all of one size.
        """
        from raybench.report.onnx_export import export

        return export(self.plan, line, model, Path(folder), node_cache(), size)

    def report(self, folder: str | Path = "out") -> Path:
        """Build the report of what is done so far, unless it is up to date, and copy it into `folder`.

        Returns:
            The path of `index.html`.
        """
        if cache.load(self.plan, self._store) is None:
            cache.save(self.plan, self._store, publish_again(self.plan))
        return copy_report(self.plan, Path(folder))

    def compare(self, earlier: Run) -> RunComparison:
        """Compare this run with an earlier one on the images that both judged, and say for each line if it got worse.

        Returns:
            `to_frame()` has a row per line, `check("recall drops")` what holds for sure.
        """
        created = datetime.now(UTC).isoformat(timespec="seconds")
        found = [analyze(run.plan, run._store, created) for run in (earlier, self)]
        shared = [line for line in earlier.lines if line in self.plan.manifests]
        rewritten = {line: rewritten_images(earlier.plan.line(line), self.plan.line(line)) for line in shared}
        return compare_runs(found[0], found[1], (earlier.experiment, self.experiment), rewritten)

    def _board(self) -> Board:
        return board_from_json(self._reported("board.json"))

    def _reported(self, name: str) -> bytes:
        try:
            return self._store.get_report(name)
        except ObjectMissing as error:
            raise InputError(
                f"{self.uri} has no report yet; run the experiment, or build one of what is done with Run.report()"
            ) from error

    def _known(self, line: str) -> str:
        if line not in self.plan.manifests:
            raise UnknownName("line", line, self.plan.manifests)
        return line

    def _scores(self, line: str) -> dict[str, tuple[UnitResult, ImageScores]]:
        """By model: the result and the image scores of the first seed that is finished."""
        found: dict[str, tuple[UnitResult, ImageScores]] = {}
        for unit in self.plan.compared:
            if unit.line != line or unit.model in found:
                continue
            if result := self._store.read(unit.unit_id, "finished", UnitResult):
                found[unit.model] = result, ImageScores.from_bytes(self._store.get_blob(result.judged.images))
        return found

    def _image_ids(self, unit: Unit) -> list[str]:
        merged = self._store.read(unit.unit_id, "quality", QualityRecord)
        return ImageScores.from_bytes(self._store.get_blob(merged.images)).image_ids.tolist() if merged else []


def pack(
    source: str | Path,
    *,
    to: str | Path = STORE,
    name: str | None = None,
    layout: str = LAYOUT,
    add: bool = False,
    progress: bool = True,
) -> Line:
    """Pack a folder of images into Parquet shards, as a product line.

    Labels that came back to the line before are kept for images that are still the same files.

    Args:
        source: The folder: a path, s3:// or any fsspec URI.
        to: The store: a path or s3://bucket/prefix.
        name: The line's name. None: the last part of the folder's.
        layout: One of those that docs/data-layouts.md lists; auto looks for itself.
        add: Append images that a packed line does not hold yet; what it holds stays, and is not scored again.
        progress: Whether to show a bar.

    Raises:
        LineError: A bad name, an unknown layout, or no image that can be used; with `add`, the line is not packed.
    """
    images, lines = open_store(str(source)), open_store(str(to)).sub("lines")
    line = name or name_of(source)
    return Line(lines, pack_line(images, lines, line, layout, _console(progress), add))


def import_labels(
    line: Line | str,
    file: str | Path,
    *,
    empty: Literal["leave", "ok"] = "leave",
    by: str = "",
    rehearse: bool = False,
) -> LabelImport:
    """Give images of a line the labels and masks that people gave them in an annotation tool.

    Images are not written again. The next run judges what is scored by the new labels, and trains nothing unless labels
    of training images have changed.

    Args:
        line: A packed line, or its URI `<store>/lines/<line>`.
        file: A file of COCO, CVAT or Label Studio, a CSV file of decisions, or a folder of YOLO labels or PNG masks.
        empty: What an image without region and label is: "leave" leaves it as it is, "ok" labels it OK.
        by: Who labelled the images. Empty takes the tool's word, then the user who imports.
        rehearse: Only say what would change.

    Raises:
        InputError: The file cannot be read, or the line lies in a store of another run.
        LabelError: Some labels cannot be those of the line; all are named, and nothing is changed.
    """
    return read.import_labels(
        line if isinstance(line, Line) else open_line(line), Path(file), empty=empty, by=by, rehearse=rehearse
    )


def open_line(uri: str) -> Line:
    """Open a packed line by its URI `<store>/lines/<line>`.

    Raises:
        InputError: It is not the URI of a line.
        LineError: The line is not packed there.
    """
    root, lines, name = uri.rstrip("/").rpartition("/lines/")
    if not lines:
        raise InputError(f"{uri!r} is not the URI of a line; write STORE/lines/NAME")
    return Line.open(open_store(root).sub("lines"), name)


def plan(experiment: Experiment | str | Path) -> Plan:
    """Return what an experiment will train and score; `to_frame()` shows it. Reads the store and writes nothing.

    Raises:
        ExperimentError: Models or lines have faults: all of them are named.
    """
    if isinstance(experiment, Experiment):
        return make_plan(experiment)
    return plan_of(str(experiment))


def run(
    experiment: Experiment | str | Path,
    *,
    models: Sequence[str | Mapping[str, Any] | ModelChoice] | None = None,
    store: str | Path = STORE,
    name: str | None = None,
    layout: str = LAYOUT,
    address: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train, score and measure what is not done yet, then compare. The same call resumes.

    Args:
        experiment: An experiment, the path of an experiment file (.yaml), or a folder of images: a path or a URI. The
            folder is packed as the line that its last part names, unless it is packed and has not changed.
        models: With a folder: the models to compare. None: all of raybench's.
        store: With a folder: where to keep line and run; a path or s3://bucket/prefix.
        name: With a folder: the run's name. None: the line's.
        layout: With a folder: one of those that docs/data-layouts.md lists; auto looks for itself.
        address: Ray cluster, as in `ray.init`. None: the connection that stands, RAY_ADDRESS, or this machine.
        progress: Whether to show bars, and units that failed.
        **settings: With a folder: other keys of an experiment, e.g. preset="cpu" or false_alarm_budget=0.01.

    Raises:
        InputError: The experiment, the images or the store cannot be used as they are.
        StoreError: Object storage failed.
        ClusterUnreachable: No Ray cluster answers at the address.
        RunStopped: A signal ended the run; the same call does the rest.
    """
    console = _console(progress)
    if isinstance(experiment, Experiment) or str(experiment).endswith((".yaml", ".yml")):
        defaults = {"models": None, "store": STORE, "name": None, "layout": LAYOUT}
        given = {"models": models, "store": str(store), "name": name, "layout": layout} | settings
        if extra := [key for key, value in given.items() if key in settings or value != defaults[key]]:
            raise InputError(f"{', '.join(extra)}: only with a folder of images; set it in the experiment")
        planned = plan(experiment)
    else:
        if address:  # before images are packed for minutes
            from raybench.scheduler.handshake import check_answers

            check_answers(address)
        planned = make_plan(_packed_experiment(str(experiment), models, str(store), name, layout, settings, console))
    summary = execute(planned, address, console)
    if console:
        console.print(console_outcome(summary, planned.units))
    return Run(planned)


def open_run(run: Experiment | str | Path) -> Run:
    """Open a run to read its results, at any time and without Ray.

    Args:
        run: The run's URI `<store>/runs/<name>`, an experiment, or the path of an experiment file.
    """
    return Run(plan(run))


def pack_line(
    source: Store, lines: Store, line: str, layout: str, console: Console | None, add: bool = False
) -> Manifest:
    """Pack a folder as `line` of the store of lines, or add its new images, with a bar on `console`."""
    with pack_bar(line, console) as show:
        if add:
            return add_from(source, lines, line, layout, show)
        return pack_from(source, lines, line, layout, show)


def execute(plan: Plan, address: str | None, console: Console | None) -> RunSummary:
    """Do what is left of `plan` on a Ray cluster; without one, where nothing is.

    console: where progress and warnings go; None: nowhere.
    """
    if board := cache.load(plan, RunStore.of(plan)):
        return RunSummary(board, len(plan.units), len(plan.units))
    from raybench.scheduler.cluster import cluster_capacity, connected
    from raybench.scheduler.progress import shown
    from raybench.scheduler.runner import run_plan

    watching = shown(console) if console else contextlib.nullcontext(lambda backlog: None)
    with connected(address), working(RunStore.of(plan), "raybench run") as others, watching as watch:
        if console:
            for other in others:
                text = f"another command works on this run: {other.text}. Both share the work, and some is done twice"
                console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        is_paper = plan.experiment.preset == "paper"
        if console and is_paper and cluster_capacity(plan.experiment.resources).device == "cpu":
            console.print("there is no GPU: the papers' settings may take hours per model; `preset: cpu` takes minutes")
        try:
            return run_plan(plan, watch)
        except RunStopped as stopped:  # said at once: `ray job stop` kills what is not gone after three seconds
            if console:
                console.print(str(stopped), style="yellow", markup=False, highlight=False, soft_wrap=True)
            raise


def copy_report(plan: Plan, folder: Path) -> Path:
    """Copy the report into `<folder>/<run>/report` and return the path of its page."""
    return download(RunStore.of(plan), folder / plan.experiment.name / "report") / "index.html"


def _packed_experiment(
    source: str,
    models: Sequence[str | Mapping[str, Any] | ModelChoice] | None,
    store: str,
    name: str | None,
    layout: str,
    settings: Mapping[str, Any],
    console: Console | None,
) -> Experiment:
    """The experiment over a folder of images, which is packed when this returns."""
    line = name_of(source)
    keys = {"name": name or line, "store": open_store(store).uri(), "lines": (line,)}
    experiment = Experiment.model_validate(keys | {"models": tuple(models or registry.names())} | dict(settings))
    check_models(experiment)
    lines = open_experiment_store(experiment).sub("lines")
    with pack_bar(line, console) as show:
        pack_if_changed(open_store(source, **experiment.storage.model_dump()), lines, line, layout, show)
    return experiment


def _console(progress: bool) -> Console | None:
    return Console(stderr=True) if progress else None
