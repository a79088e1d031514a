"""A run, read from its store."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from raybench._api.execute import execute
from raybench.analysis.board import Board, board_from_json
from raybench.analysis.findings import analyze, finished_on, robustness_on
from raybench.analysis.flags import collect_scores, voting_models
from raybench.analysis.learning_curve import SIZES, conclude, curve_frame, plan_curve, read_curve
from raybench.analysis.robustness import IMAGES, robustness_frame
from raybench.analysis.robustness import conclude as conclude_robustness
from raybench.analysis.run_comparison import RunComparison, compare_runs
from raybench.analysis.select import select_unit
from raybench.analysis.slices import slice_frame, slices_of
from raybench.analysis.verdict import Verdict
from raybench.analysis.watch import Watch, watch_line
from raybench.config.experiment import Experiment
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import decode_image, decode_mask
from raybench.data.geometry import to_source
from raybench.data.line import rewritten_images
from raybench.data.manifest import has_other_regions, read_manifest
from raybench.data.roi import heat_inside, roi_of
from raybench.errors import InputError, ModelError, ObjectMissing, UnknownName
from raybench.metrics.image import ImageScores
from raybench.report.columns import board_frame
from raybench.report.notebook import BoardFrame, Heatmap
from raybench.report.pictures import scored_images
from raybench.report.predictions import PAGE, TABLE
from raybench.report.progress import console_for
from raybench.report.publish import (
    cache_report,
    cached_report,
    copy_report,
    publish_again,
    publish_studies,
)
from raybench.runs.ledger import read_statuses, with_ledger
from raybench.runs.plans import record_plan
from raybench.runs.records import QualityRecord, TrainRecord
from raybench.runs.run import RunStore
from raybench.runs.thresholds import read_threshold
from raybench.scheduler.new_images import NewImages, predict_images
from raybench.worker.context import fit_of, node_cache

if TYPE_CHECKING:
    from raybench.report.mlflow import Published
    from raybench.report.onnx_export import Exported


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
        board = self._board(self._known(line))
        if line not in board.lines:
            raise InputError(f"the report of {self.uri} has no results on {line}; run the experiment first")
        return board.verdict_on(line)

    def status(self, line: str | None = None) -> pd.DataFrame:
        """Return how far each unit is: waiting, trained, failed or done.

        Args:
            line: Only the units of this line.
        """
        of = self.plan.manifests if line is None else (self._known(line),)
        units = read_statuses(self.plan, [unit for unit in self.plan.units if unit.line in of])
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
        found = next((each for each in finished_on(self.plan, line) if each.unit.model == unit.model), None)
        if found is None:
            raise InputError(f"{unit} is not finished yet; run the experiment first")
        attributes = self.plan.line(line).attributes()
        return slice_frame(slices_of(line, unit.model, found.images, found.result.trained.threshold, attributes))

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
        plans = plan_curve(self.plan, self._known(line), sizes, models)
        for smaller in [*plans.values()][:-1]:
            execute(smaller, address, console_for(progress))
        publish_studies(self.plan, self._store)
        points = read_curve(self.plan, line, [*plans], models)
        frame = curve_frame(points)
        frame.attrs["conclusions"] = conclude(points, self.experiment.verdict.margin)
        return frame

    def robustness(
        self,
        line: str,
        *,
        models: Sequence[str] = (),
        images: int = IMAGES,
        address: str | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Score perturbed test images with the line's trained models, and return what light, blur, noise or shift cost.

        Nothing is trained, and what was scored before is not scored again; the same call resumes.

        Args:
            line: The product line.
            models: Labels of the models. Empty: all of the line's.
            images: Test images to perturb, at most: half of them OK, half of them NG.
            address: Ray cluster, as in `run`.
            progress: Whether to show a bar.

        Returns:
            Index: model, perturbation, where `as taken` are the same images unperturbed. Columns: image_auroc, lower
            (image AUROC as taken minus this), false_alarm_rate and recall at the model's threshold, each with its
            interval in `_low` and `_high`, and failure: why a perturbation has no numbers. `attrs["conclusions"]` says
            what each model surely does not bear.

        Raises:
            UnknownName: There is no such line or model.
            InputError: The run is not finished on the line, or the line has no labelled test images.
        """
        from raybench.scheduler.robustness import RobustnessOptions, measure_robustness  # imports Ray

        options = RobustnessOptions(self._known(line), models, images)
        measure_robustness(self.plan, options, address, console_for(progress))
        publish_studies(self.plan, self._store)
        points = [point for point in robustness_on(self.plan, line) if not models or point.model in models]
        frame = robustness_frame(points)
        frame.attrs["conclusions"] = conclude_robustness(points, self.experiment.verdict.margin)
        return frame

    def images(self, line: str) -> pd.DataFrame:
        """Return every test and unlabelled image of `line` as all models see it, the most anomalous first.

        Returns:
            Index: image_id. Columns: label; `score_<model>` in the model's own unit, of its first finished seed;
            excess, the mean over the models that count of how far the score lies above the threshold (-1 at a typical
            OK image, 0 at the threshold, 1 twice as far); flags and reasons, empty where nobody needs to look;
            anomaly_type, None where no kind is known.
        """
        finished = finished_on(self.plan, self._known(line))
        voting = {line: voting_models(self.verdict(line))}
        seen = collect_scores(
            [unit.result for unit in finished], {unit.unit.unit_id: unit.images for unit in finished}, voting
        )
        columns: dict[str, pd.Series[Any]] = {}
        for unit in finished:
            found = unit.images
            columns.setdefault("label", pd.Series(found.labels.astype(object), found.image_ids))
            columns.setdefault(f"score_{unit.unit.model}", pd.Series(found.scores, found.image_ids))
        frame = pd.DataFrame(columns).rename_axis("image_id")
        frame["excess"] = pd.Series({image.image_id: image.score for image in seen}, dtype=float)
        flags = self.flags(line).set_index("image_id")
        frame["flags"] = flags["kinds"].map(", ".join).reindex(frame.index).fillna("")
        frame["reasons"] = flags["reason"].reindex(frame.index).fillna("")
        frame["anomaly_type"] = flags["anomaly_type"].reindex(frame.index)
        return frame.sort_values("excess", ascending=False, kind="stable")

    def heatmap(self, line: str, image_id: str, model: str | None = None) -> Heatmap:
        """Return the heat map of a test or unlabelled image. Outside its region of interest it has its lowest value.

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
        threshold = read_threshold(self._store, unit.unit_id, trained, self.experiment.on(line).threshold).threshold
        return Heatmap(
            line=line,
            image_id=image_id,
            label=row.label,
            model=unit.model,
            score=scored.score,
            is_anomalous=None if threshold.value is None else scored.score > threshold.value,
            image=decode_image(row.image, manifest.white_level, manifest.black_level),
            values=heat_inside(to_source(scored.heatmap, fit_of(unit), row.height, row.width), row),
            mask=decode_mask(row.mask, row.height, row.width) if row.mask else None,
            roi=None if (roi := roi_of(row)) is None else roi.inside,
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
        at: str | None = None,
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
            at: When the images were taken, for `watch`: ISO 8601, UTC without a zone. None: now.
            folder: Local folder for the table and a page of the most anomalous images.
            address: Ray cluster to score on. None: RAY_ADDRESS, else this process.
            progress: Whether to show a bar.

        Returns:
            A row per image: image_id, score, is_anomalous, threshold, excess, height, width, odd_size. The attribute
            `attrs["page"]` is the path of the page.

        Raises:
            ModelError: Some images could not be scored. The rest is in the store.
        """
        new = NewImages(str(images), line, model, name, at)
        scored = predict_images(self.plan, new, Path(folder), address, console_for(progress))
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

    def watch(self, line: str, model: str | None = None, *, since: str | None = None, defects: float = 0.0) -> Watch:
        """Return what predictions found on a line over time: whether it has changed, and whether the threshold holds.

        Args:
            line: The product line.
            model: Label of the model. None: the one that the verdict names.
            since: Only batches from this time on: ISO 8601, UTC without a zone. After an alarm was seen to.
            defects: Share of NG images that is usual, and may be flagged beside what the threshold promises.

        Returns:
            `changed`, `changes`, `threshold`; `to_frame()` has a row per batch.

        Raises:
            UnknownName: There is no such line or model.
            InputError: There is no batch yet.
        """
        return watch_line(self.plan, self._known(line), model, since, defects)

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

    def publish(self, onnx: str | Path | None = None) -> Published:
        """Show the run in the MLflow that $MLFLOW_TRACKING_URI names, in $MLFLOW_EXPERIMENT_NAME; again to update it.

        Args:
            onnx: Local folder of exported detectors. Those that the verdicts name are published from it, and exported
                into it where it lacks them. None: no detector is published.

        Returns:
            What is there now; `not_exported` says why a line has no exported detector.

        Raises:
            InputError: MLflow is not installed, no URI is given, no unit has ended, or another process publishes the
                run.
            TrackerError: MLflow fails.
        """
        from raybench.report.mlflow import publish_to_mlflow

        return publish_to_mlflow(self.plan, None if onnx is None else Path(onnx), node_cache())

    def report(self, folder: str | Path = "out") -> Path:
        """Build the report of what is done so far, unless it is up to date, and copy it into `folder`.

        Returns:
            The path of `index.html`.
        """
        if cached_report(self.plan, self._store) is None:
            record_plan(self._store, self.plan)
            cache_report(self.plan, self._store, publish_again(self.plan))
        return copy_report(self.plan, Path(folder))

    def compare(self, earlier: Run) -> RunComparison:
        """Compare this run with an earlier one on the images that both judged, and say for each line if it got worse.

        Returns:
            `to_frame()` has a row per line, `check("recall drops")` what holds for sure.
        """
        created = datetime.now(UTC).isoformat(timespec="seconds")
        found = [analyze(run.plan, with_ledger(run._store, run.plan.units), created) for run in (earlier, self)]
        shared = [line for line in earlier.lines if line in self.plan.manifests]
        rewritten = {line: rewritten_images(earlier.plan.line(line), self.plan.line(line)) for line in shared}
        manifests = [(line, earlier.plan.manifests[line], self.plan.manifests[line]) for line in shared]
        other_regions = {line for line, before, now in manifests if has_other_regions(before, now)}
        return compare_runs(found[0], found[1], (earlier.experiment, self.experiment), rewritten, other_regions)

    def _board(self, *lines: str) -> Board:
        """Return the board of the latest report; warn if some lines have changed since, or if any has."""
        board = board_from_json(self._reported("board.json"))
        then = board.context.lines
        changed = [line for line in lines or then if line in then and self._state(line) not in ("", then[line])]
        if changed:
            warnings.warn(
                f"images or labels of {', '.join(changed)} have changed since the report of {board.context.created}; "
                "run the experiment again",
                stacklevel=3,
            )
        return board

    def _state(self, line: str) -> str:
        """Return the digest of a line as it is packed and labelled now; empty if the plan does not have it any more."""
        if line not in self.plan.manifests:
            return ""
        if line in self.plan.states:
            return self.plan.manifests[line].digest
        return read_manifest(self.plan.lines_of(line), line).digest

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

    def _image_ids(self, unit: Unit) -> list[str]:
        merged = self._store.read(unit.unit_id, "quality", QualityRecord)
        return ImageScores.from_bytes(self._store.get_blob(merged.images)).image_ids.tolist() if merged else []
