from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from raybench.analysis.board import BoardContext, build_board
from raybench.analysis.findings import Findings, FinishedUnit
from raybench.analysis.run_comparison import CONDITIONS, RunComparison, compare_runs
from raybench.config.experiment import Experiment, ModelChoice, Override
from raybench.config.unit import Unit
from raybench.data.geometry import Input
from raybench.errors import InputError
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Threshold
from raybench.report.comparison import junit, render_comparison
from tests.support.results import made_unit

LINES = ("cap", "lens")
EXPERIMENT = Experiment(name="then", store="memory", lines=LINES, models=(ModelChoice(name="padim"),))
THRESHold = Threshold(2.0, 19, 0.05, 0.05, 0.0)
LABELS = ["ok"] * 40 + ["ng"] * 40


def scores(gap: float, noise: int = 0) -> list[float]:
    rng = np.random.default_rng(noise)
    return [float(score) for score in rng.normal(0, 0.8, 80) + np.repeat([0.0, gap], 40)]


def found(name: str, by_line: Mapping[str, list[float]], labels: list[str] = LABELS, model: str = "padim") -> Findings:
    """What a run of one model means. by_line: its scores."""
    units = []
    for line, values in by_line.items():
        images = ImageScores.of([f"{at:02}" for at in range(len(values))], labels, values)
        quality = vars(image_quality(images, THRESHold))
        unit = Unit(line, "0" * 8, "1" * 8, model, model, {}, {}, Input("native", 64, 64, 64, 64), 0)
        result = made_unit(unit.unit_id, line, model, threshold=THRESHold, **quality)
        units.append(FinishedUnit(unit, result, images, ImageScores.empty()))
    context = BoardContext(name, "2026-01-01T00:00:00+00:00", "d" * 64, {"torch": name}, 0.05)
    board = build_board([unit.result for unit in units], {unit.unit.unit_id: unit.images for unit in units}, context)
    return Findings(board, (), (), {}, {}, tuple(units))


def compared(old: Findings, new: Findings, now: Experiment = EXPERIMENT) -> RunComparison:
    return compare_runs(old, new, (EXPERIMENT, now), {})


@pytest.fixture(scope="module")
def old() -> Findings:
    return found("then", {"cap": scores(4.0), "lens": scores(4.0)})


def test_a_run_against_itself_is_unchanged(old: Findings) -> None:
    comparison = compared(old, old)
    assert [line.word for line in comparison.lines] == ["unchanged", "unchanged"]
    assert comparison.differences == ()
    assert all(set(comparison.check(condition).values()) == {""} for condition in CONDITIONS)
    assert (comparison.to_frame()[["recall", "recall_low", "newly_missed"]] == 0).all(axis=None)


def test_a_planted_worse_line_is_first_and_stops_the_pipeline(old: Findings) -> None:
    worse = np.array(scores(4.0))
    worse[40:55] -= 3.5
    comparison = compared(old, found("now", {"cap": scores(4.0), "lens": worse.tolist()}))
    lens, cap = comparison.lines
    assert (lens.line, lens.word, cap.word) == ("lens", "worse", "unchanged")
    assert lens.named
    limits = [np.array(scores(4.0))[40:55] > 2, worse[40:55] > 2]
    missed = tuple(f"{at + 40}" for at in np.flatnonzero(limits[0] & ~limits[1]))
    assert lens.named.newly_missed == missed
    assert (lens.named.newly_caught, lens.named.new_alarms, lens.named.gone_alarms) == ((), (), ())
    recall = comparison.check("recall drops")
    assert recall["cap"] == ""
    assert (recall["lens"] or "").startswith("recall -0.")
    assert comparison.check("image AUROC drops")["lens"]
    assert comparison.check("false alarms rise") == {"lens": "", "cap": ""}
    assert comparison.differences == ("torch then → now",)
    xml = junit(comparison, {"recall drops": recall})
    assert 'tests="2" failures="1" errors="0" skipped="0"' in xml
    page = render_comparison(comparison, {("lens", missed[0]): "data:image/webp;base64,AAAA"})
    assert f"<h3>Newly missed: {len(missed)}</h3>" in page
    assert page.count("<img") == 1
    assert "<script" not in page


def test_a_single_newly_missed_image_is_no_sure_drop(old: Findings) -> None:
    now = np.array(scores(4.0))
    now[45] = 1.0
    lens = compared(old, found("now", {"cap": scores(4.0), "lens": now.tolist()})).lines[0]
    assert (lens.line, lens.word) == ("lens", "cannot tell")
    assert lens.named
    assert lens.named.newly_missed == ("45",)


def test_only_images_with_the_same_label_are_compared(old: Findings) -> None:
    labels = ["ng", "ok", *LABELS[2:]]
    new = found("now", {"cap": scores(4.0, 1)}, labels)
    cap, lens = sorted(compared(old, new).lines, key=lambda line: line.line)
    assert cap.images
    assert (cap.images.ok, cap.images.ng, cap.images.relabelled) == (39, 40, 1)
    assert "1 with another label" in cap.notes[0]
    assert (lens.word, lens.notes) == ("not comparable", ("now has no results on this line as it is packed now",))
    assert compared(old, new).check("recall drops")["lens"] is None


def test_images_with_other_bytes_are_not_compared(old: Findings) -> None:
    rewritten = {"cap": {f"{at:02}" for at in range(80)}}
    cap = next(line for line in compare_runs(old, old, (EXPERIMENT, EXPERIMENT), rewritten).lines if line.line == "cap")
    assert cap.word == "not comparable"
    assert "80 with other bytes; compared on the 0 OK and 0 NG images in common" in cap.notes[0]


def test_another_region_of_interest_is_noted(old: Findings) -> None:
    found = compare_runs(old, old, (EXPERIMENT, EXPERIMENT), {}, {"cap"})
    assert {line.line: any("region of interest" in note for note in line.notes) for line in found.lines} == {
        "cap": True,
        "lens": False,
    }


def test_recall_at_another_budget_is_not_compared(old: Findings) -> None:
    other = EXPERIMENT.model_copy(update={"overrides": {"lens": Override(false_alarm_budget=0.01)}})
    now = found("now", {"cap": scores(4.0, 1), "lens": scores(4.0, 1)})
    comparison = compared(old, now, other)
    lens = next(line for line in comparison.lines if line.line == "lens")
    assert lens.named
    assert lens.named.recall.value is None
    assert lens.named.image_auroc.value is not None
    assert "false-alarm budget 0.05 then, 0.01 now" in lens.notes[0]
    assert any(text.startswith("overrides: ") for text in comparison.differences)
    assert comparison.check("recall drops")["lens"] is None


def test_another_named_model_is_compared_with_the_earlier_one(old: Findings) -> None:
    comparison = compared(old, found("now", {line: scores(4.0, 1) for line in LINES}, model="dfm"))
    assert all(line.named and (line.named.old, line.named.new) == ("padim", "dfm") for line in comparison.lines)
    assert all(not line.models for line in comparison.lines)
    assert set(comparison.check("verdict changes").values()) != {""}
    assert "models only in the later run: dfm" in comparison.differences


def test_several_seeds_are_averaged(old: Findings) -> None:
    units = [replace(unit, unit=replace(unit.unit, seed=1)) for unit in old.finished]
    both = replace(old, finished=(*old.finished, *units))
    assert [line.word for line in compared(both, both).lines] == ["unchanged", "unchanged"]
    assert {line.word for line in compared(old, both).lines} == {"unchanged"}


def test_an_unknown_condition_is_named(old: Findings) -> None:
    with pytest.raises(InputError, match="'recall falls'; known: 'recall drops'"):
        compared(old, old).check("recall falls")
