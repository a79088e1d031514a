"""Everything that the report's page shows, as data: `html` writes it, `page.html.j2` lays it out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from raybench.analysis.board import Board
from raybench.analysis.findings import HeldOut
from raybench.analysis.flags import Flag, ScoredImage
from raybench.analysis.line_summary import LineSummary, poor_lines, worst_first
from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.analysis.sentences import format_number
from raybench.analysis.slices import Slice
from raybench.analysis.verdict import Verdict
from raybench.config.experiment import Costs
from raybench.metrics.numbers import Estimate
from raybench.metrics.threshold import MAX_EXCESS
from raybench.report.charts import Curve, OperatingPoint, Strip, operating_point, recall_curves, strips
from raybench.report.column import cells, shown
from raybench.report.columns import LINE_COLUMNS, OVERALL_COLUMNS
from raybench.report.conditions import conditions
from raybench.report.gallery import FILES, HeatMap, Picture
from raybench.report.inspection import Section
from raybench.report.marks import Term, terms
from raybench.report.models_table import STYLES, ModelsTable, line_table, overall_table
from raybench.report.overview import MatrixRow, Segment, Task, matrix_row, segments, short_names, tasks
from raybench.report.pictures import mistake, queue_per_line
from raybench.report.scores import SCORES_IN_PAGE, PageScores, page_scores
from raybench.report.studies import CurveTable, RobustnessTable, Studies, curve_table, robustness_table

OfLine = TypeVar("OfLine", Flag, ScoredImage, Picture)


@dataclass(frozen=True)
class Cell:
    """A cell of a table of all numbers."""

    text: str
    style: str
    """CSS class; empty for none."""


@dataclass(frozen=True)
class PageRow:
    """A row of a line's table."""

    row: BoardRow
    cells: tuple[Cell, ...]
    defects_found: tuple[str, ...]
    """Share of defects found, in the order of `PageLine.defect_kinds`. Empty without masks."""


@dataclass(frozen=True)
class PagePicture:
    """A picture and what the page says about it."""

    picture: Picture
    place: int
    """Place among the line's pictures, the most anomalous first, from 0."""
    mistake: str
    """What the named model does wrong with it: `missed`, `false alarm` or nothing."""
    excess: tuple[float | None, ...]
    """In the order of `PageLine.models`."""
    flagged: int
    """Number of models above whose threshold it lies."""
    voting: str
    """How many of the voting models these are, in words. Empty if all models vote."""
    signal: str
    """Type of the anomaly; empty if unknown."""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures of a line with a title of their own."""

    title: str
    pictures: tuple[PagePicture, ...]
    is_closed: bool = False
    """Whether it is shown on a click only."""


@dataclass(frozen=True)
class PageFlag:
    """A flagged image: a card of the queue."""

    flag: Flag
    reasons: tuple[str, ...]
    """All kinds that apply."""
    picture: Picture | None
    """None if the page has none."""
    has_heat_maps: bool
    """Whether the image has a place in the Images view."""

    @property
    def defect_type(self) -> str:
        """Empty if unknown."""
        return self.picture.defect_type if self.picture else ""


@dataclass(frozen=True)
class PageLine:
    """The view of one line."""

    summary: LineSummary
    verdict: Verdict
    facts: str
    """Number and size of the line's images."""
    consequence: str
    """What the named model finds and flags, in counts. Empty without a named model."""
    matrix: MatrixRow
    table: ModelsTable
    runner_up: str
    """The compared model with the second lowest expected loss; empty without one."""
    terms: tuple[Term, ...]
    """Utility of the named model beside that of the runner-up."""
    strips: tuple[Strip, ...]
    curves: tuple[Curve, ...]
    point: OperatingPoint | None
    """Of the named model."""
    chart_note: str
    """What the charts leave out, in sentences. Empty if they are exact."""
    slices: tuple[Slice, ...] = field(default=(), kw_only=True)
    """The named model on the images of each camera, lot or light."""
    curve: CurveTable | None = field(default=None, kw_only=True)
    """Learning curves. None if the models were not trained on fewer images."""
    robustness: RobustnessTable | None = field(default=None, kw_only=True)
    """Models on perturbed images. None if that was not measured."""
    payoff: str
    """What the line's queue is worth, in a sentence. Empty without scores."""
    rows: tuple[PageRow, ...]
    defect_kinds: tuple[tuple[str, int], ...]
    """Types and sizes of the line's masked defects, and how many there are."""
    models: tuple[str, ...]
    """All models of the line, the named one first."""
    drawn: tuple[HeatMap, ...]
    """Heat maps of one of the pictures, for the names and thresholds of the models that the pictures show."""
    groups: tuple[PictureGroup, ...]
    flags: tuple[PageFlag, ...]
    """The first of them."""
    flag_count: int
    """Number of all flags."""
    section: Section | None
    """Quality of the line's data. None if nothing is known about it."""
    seeds: int
    """Largest number of seeds of a model."""
    scores: PageScores | None = None
    """What it takes to move the thresholds. None if that is unknown or too much for the page."""
    unmoved: str = ""
    """Why the thresholds cannot be moved. Empty if they can, and on a line without scores."""

    @property
    def name(self) -> str:
        return self.summary.line

    @property
    def style(self) -> str:
        """CSS class of the named model's grade."""
        return self.matrix.style

    @property
    def has_roi(self) -> bool:
        """Whether a picture has a region of interest."""
        return any(shown.picture.has_roi for group in self.groups for shown in group.pictures)

    def style_of(self, model: str) -> str:
        """Return the CSS class of a model's grade."""
        return "named" if model == self.verdict.run else STYLES.get(self.verdict.grades.get(model, ""), "none")


@dataclass(frozen=True)
class PageModel:
    """Everything that the template shows."""

    board: Board
    lines: tuple[PageLine, ...]
    """The worst first."""
    poor: str
    """How many lines are poor, in a sentence."""
    segments: tuple[Segment, ...]
    tasks: tuple[Task, ...]
    table: ModelsTable
    """Over all lines."""
    overall: tuple[tuple[str, ...], ...]
    """Cells of the table of all numbers over all lines."""
    conditions: tuple[str, ...]
    filters: Mapping[str, Sequence[str]]
    """The values that the queue can be filtered by."""
    flag_count: int
    """Number of all flags."""

    @property
    def units(self) -> int:
        """Number of units that finished or failed."""
        return sum(len(row.seeds) + len(row.failures) for row in self.board.rows)

    @property
    def failed(self) -> int:
        """Number of units that failed."""
        return sum(len(row.failures) for row in self.board.rows)

    @property
    def short_names(self) -> Mapping[str, str]:
        """Short names of the models, for cells without room for a header."""
        return short_names([row.model for row in self.board.overall])

    @property
    def has_roi(self) -> bool:
        """Whether a picture has a region of interest."""
        return any(line.has_roi for line in self.lines)

    @property
    def has_pictures(self) -> bool:
        return any(line.groups for line in self.lines)

    @property
    def has_files(self) -> bool:
        """Whether pictures lie beside the page."""
        return any(group.is_closed for line in self.lines for group in line.groups)


def page_model(
    board: Board,
    flags: Sequence[Flag],
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage],
    sections: Mapping[str, Section],
    held_out: Mapping[str, Mapping[str, HeldOut]],
    studies: Studies,
) -> PageModel:
    """Return everything that the page shows. The arguments are those of `html.render`."""
    flags_of, pictures_of, seen_of = _by_line(flags), _by_line(pictures), _by_line(seen)
    summaries = worst_first(board)
    most = queue_per_line(len(summaries))
    lines = tuple(
        _page_line(board, each, flags_of[each.line], most, pictures_of[each.line], seen_of[each.line], sections)
        for each in summaries
    )
    lines = _with_scores(lines, seen_of, held_out)
    lines = tuple(_with_studies(line, board, studies) for line in lines)
    return PageModel(
        board=board,
        lines=lines,
        poor=poor_lines(summaries),
        segments=segments(board),
        tasks=tasks(board, flags, [each.flag for line in lines for each in line.flags], sections),
        table=overall_table(board),
        overall=tuple(tuple(cells(OVERALL_COLUMNS, board, row)) for row in board.overall),
        conditions=tuple(conditions(board)),
        filters=_filters(lines),
        flag_count=len(flags),
    )


def _with_scores(
    lines: Sequence[PageLine],
    seen_of: Mapping[str, Sequence[ScoredImage]],
    held_out: Mapping[str, Mapping[str, HeldOut]],
) -> tuple[PageLine, ...]:
    """Give lines their scores, from the first one on, as long as the page has room for them."""
    room, found = SCORES_IN_PAGE, []
    for line in lines:
        seen = seen_of[line.name]
        count = sum(len(image.excess) for image in seen)
        scores = page_scores(seen, held_out.get(line.name, {}), line.models) if count <= room else None
        why = f"the page has no room for its {count:,} scores" if count > room else "its models have no thresholds"
        room -= count if scores else 0
        found.append(replace(line, scores=scores, unmoved="" if scores or not seen else why))
    return tuple(found)


def _with_studies(line: PageLine, board: Board, studies: Studies) -> PageLine:
    margin = board.context.decision.verdict.margin
    return replace(
        line,
        slices=tuple(studies.slices.get(line.name, ())),
        curve=curve_table(studies.curves.get(line.name, ()), line.models, margin),
        robustness=robustness_table(studies.robustness.get(line.name, ()), line.models, margin),
    )


def _page_line(
    board: Board,
    summary: LineSummary,
    flags: Sequence[Flag],
    most: int,
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage],
    sections: Mapping[str, Section],
) -> PageLine:
    verdict, rows = board.verdict_on(summary.line), board.rows_of(summary.line)
    kinds = {kind: number.n for row in rows for kind, number in _defects_found(row).items()}
    runner_up = next((model for model in verdict.standings if model != verdict.run), "") if verdict.run else ""
    models = [row.model for row in rows]
    gallery = [picture for picture in pictures if not picture.is_thumbnail]
    payoff = board.payoff_on(summary.line)
    return PageLine(
        summary=summary,
        verdict=verdict,
        facts=_facts(rows, seen),
        consequence=_consequence(summary.named, board.context.decision.costs),
        matrix=matrix_row(board, summary),
        table=line_table(board, summary.line),
        runner_up=runner_up,
        terms=terms(verdict.terms[verdict.run or ""], verdict.terms[runner_up]) if runner_up else (),
        strips=strips(seen, models),
        curves=recall_curves(seen, models),
        point=operating_point(summary.named),
        chart_note=_chart_note(rows, seen),
        payoff=payoff.sentence.removeprefix(f"{summary.line}: ") if payoff else "",
        rows=tuple(_page_row(board, row, tuple(kinds)) for row in rows),
        defect_kinds=tuple(kinds.items()),
        models=tuple(models),
        drawn=next((picture.maps for picture in gallery if picture.maps), ()),
        groups=_groups(summary.run or "", seen, _page_pictures(gallery, flags, seen, models, verdict.run or "")),
        flags=_page_flags(flags[:most], pictures),
        flag_count=len(flags),
        section=sections.get(summary.line),
        seeds=max((len(row.seeds) for row in rows), default=0),
    )


def _facts(rows: Sequence[BoardRow], seen: Sequence[ScoredImage]) -> str:
    """`96 OK to train on, 24 held back · test: 16 OK, 16 NG, 12 masks · 300×300 px`."""
    finished = sorted((row.finished for row in rows if row.finished), key=lambda model: len(model.trained.together))
    first = next(iter(finished), None)  # one that is trained on this line alone, where there is one
    grouped = _grouped(rows, seen)
    if first is None:
        return grouped
    together = f" ({len(first.trained.together)} lines together)" if first.trained.together else ""
    facts = (
        f"{first.trained.train_ok:,} OK to train on{together}, {first.trained.held_out_ok:,} held back",
        f"test: {first.test.ok:,} OK, {first.test.ng:,} NG, {first.test.masks:,} masks",
        *([f"labelled, and not counted: {first.test.chosen:,}"] if first.test.chosen else []),
        grouped,
        f"{first.input.source_width:,}×{first.input.source_height:,} px",
    )
    return " · ".join(fact for fact in facts if fact)


def _grouped(rows: Sequence[BoardRow], seen: Sequence[ScoredImage]) -> str:
    """`groups: 19 held back, 5 OK, 4 NG`. Empty if each image is a group of its own."""
    thresholds = [row.finished.trained.threshold for row in rows if row.finished]
    grouped = [threshold for threshold in thresholds if threshold.groups < threshold.n]
    parts = [f"{grouped[0].groups:,} held back"] if grouped else []
    for label, words in (("ok", "OK"), ("ng", "NG")):
        groups = [image.group or image.image_id for image in seen if image.label == label]
        if len(set(groups)) < len(groups):
            parts.append(f"{len(set(groups)):,} {words}")
    return f"groups: {', '.join(parts)}" if parts else ""


def _chart_note(rows: Sequence[BoardRow], seen: Sequence[ScoredImage]) -> str:
    seeds = max((len(row.seeds) for row in rows), default=0)
    parts = []
    if seeds > 1:
        parts.append(
            f"Strips, curves, pictures and the queue are of the first seed; recall, false alarms and the circle are "
            f"means of up to {seeds} seeds, so the circle need not lie on its curve."
        )
    if any(excess >= MAX_EXCESS for image in seen if image.label == "ok" for excess in image.excess.values()):
        parts.append(f"An excess of {MAX_EXCESS:g} and more counts as one value in the curves.")
    return " ".join(parts)


def _consequence(named: FinishedModel | None, costs: Costs | None) -> str:
    """What a model's recall and false alarms mean in images: of 1,000 parts if the share of NG parts is known."""
    if named is None:
        return ""
    recall, alarms = named.quality.recall, named.quality.false_alarm_rate
    if costs and recall.value is not None and alarms.value is not None:
        ng = 1000 * costs.defect_rate
        missed = _range(ng, replace(recall, value=1 - recall.value, low=_less(recall.high), high=_less(recall.low)))
        return f"Of 1,000 parts, {ng:.3g} of them NG: {missed} missed, {_range(1000 - ng, alarms)} false alarms."
    parts = [
        f"{verb} {round(number.value * number.n, 1):g} of {number.n} {label} test images"
        for verb, number, label in (("finds", recall, "NG"), ("flags", alarms, "OK"))
        if number.value is not None
    ]
    return f"At its OK-only threshold it {' and '.join(parts)}." if parts else ""


def _less(share: float | None) -> float | None:
    return None if share is None else 1 - share


def _range(parts: float, rate: Estimate) -> str:
    """`8 (3–13)`: how many of so many parts."""
    low, high = rate.low, rate.high
    interval = "" if low is None or high is None else f" ({parts * low:.0f}–{parts * high:.0f})"
    return f"{parts * (rate.value or 0.0):.0f}{interval}"


def _page_row(board: Board, row: BoardRow, kinds: Sequence[str]) -> PageRow:
    found = _defects_found(row)
    return PageRow(
        row=row,
        cells=_cells(board, row),
        defects_found=tuple(format_number(found.get(kind, Estimate(None))) for kind in kinds) if row.finished else (),
    )


def _cells(board: Board, row: BoardRow) -> tuple[Cell, ...]:
    page_cells = []
    for column in shown(LINE_COLUMNS):
        text = column.text(board, row)
        page_cells.append(Cell(text, "words" if column.is_sentence else "interval" if "(" in text else ""))
    return tuple(page_cells)


def _page_pictures(
    pictures: Sequence[Picture],
    flags: Sequence[Flag],
    seen: Sequence[ScoredImage],
    models: Sequence[str],
    named: str,
) -> list[PagePicture]:
    voters = seen[0] if seen else None  # they are the same for all images of a line
    signals = {flag.image_id: flag.signal for flag in flags if flag.signal}
    return [
        PagePicture(
            picture=each,
            place=place,
            mistake=mistake(each.label, each.excess.get(named)),
            excess=tuple(each.excess.get(model) for model in models),
            flagged=sum(excess > 0 for excess in each.excess.values()),
            voting=_voting(replace(voters, excess=each.excess)) if voters else "",
            signal=signals.get(each.image_id, ""),
        )
        for place, each in enumerate(pictures)
    ]


def _voting(image: ScoredImage) -> str:
    """Say how many of the voting models flag an image, which the queue goes by. Empty if all models vote."""
    flagged, of = len(image.flagged_by), len(image.counted)
    if of == len(image.excess):
        return ""
    if of == 1:
        return "the one that votes included" if flagged else "not the one that votes"
    return f"{flagged or 'none'} of the {of} that vote"


def _groups(model: str, seen: Sequence[ScoredImage], pictures: Sequence[PagePicture]) -> tuple[PictureGroup, ...]:
    """Group a line's pictures: what the named model misses, its false alarms, the rest, and those beside the page."""
    wrong = Counter(mistake(image.label, image.excess.get(model)) for image in seen)
    titles = {
        "missed": f"NG images that {model} misses",
        "false alarm": f"OK images that {model} flags",
        "": "Others, the most anomalous first",
    }
    groups = []
    for kind, title in titles.items():
        shown = tuple(each for each in pictures if each.mistake == kind and not each.picture.is_beside)
        count = f": {wrong[kind]}" if kind else ""
        more = f", {len(shown)} shown" if kind and len(shown) < wrong[kind] else ""
        if shown:
            groups.append(PictureGroup(f"{title}{count}{more}", shown))
    if beside := tuple(each for each in pictures if each.picture.is_beside):
        groups.append(
            PictureGroup(f"{len(beside)} further images, in the folder “{FILES}” beside this page", beside, True)
        )
    return tuple(groups)


def _page_flags(flags: Sequence[Flag], pictures: Sequence[Picture]) -> tuple[PageFlag, ...]:
    picture_of = {picture.image_id: picture for picture in pictures if not picture.is_beside}
    drawn = {picture.image_id for picture in pictures if not picture.is_thumbnail}
    return tuple(
        PageFlag(flag, flag.kinds or (flag.kind,), picture_of.get(flag.image_id), flag.image_id in drawn)
        for flag in flags
    )


def _filters(lines: Sequence[PageLine]) -> Mapping[str, Sequence[str]]:
    """The values that the queue can be filtered by; a filter without values is left out."""
    flags = [flag for line in lines for flag in line.flags]
    values = {
        "line": {line.name for line in lines if line.flags},
        "kind": {reason for flag in flags for reason in flag.reasons},
        "label": {flag.flag.label for flag in flags},
        "model": {model for flag in flags for model in flag.flag.models},
        "signal": {flag.flag.signal for flag in flags if flag.flag.signal},
        "defect": {flag.defect_type for flag in flags if flag.defect_type},
    }
    return {name: sorted(found) for name, found in values.items() if found}


def _by_line(items: Sequence[OfLine]) -> Mapping[str, list[OfLine]]:
    by_line: defaultdict[str, list[OfLine]] = defaultdict(list)
    for item in items:
        by_line[item.line].append(item)
    return by_line


def _defects_found(row: BoardRow) -> dict[str, Estimate]:
    """Share of defects found, by type and by size."""
    return {**row.finished.regions.by_type, **row.finished.regions.by_size} if row.finished else {}
