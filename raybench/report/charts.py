"""The report's charts, as Plotly figures in JSON; the page draws them when they come into view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from raybench.analysis.flags import ScoredImage
from raybench.analysis.rows import BoardRow
from raybench.metrics import curves

# Okabe and Ito 2008: distinct with every kind of colour vision. Dashes distinguish the models after the eighth.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#7F7F7F")
DASHES = ("solid", "dash", "dot")
CLASSES = {"ok": ("OK", "#0072B2"), "ng": ("NG", "#D55E00"), "unknown": ("unlabelled", "#7F7F7F")}
BINS = 40
NAME_CHARS = 32
POINTS = 200  # of a curve
SHOWN_EXCESS = (-2.0, 6.0)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    title: str
    alt: str
    """Description for screen readers."""
    figure: str
    """Plotly's JSON, safe inside a script element."""


def charts(rows: Sequence[BoardRow], seen: Sequence[ScoredImage], named: str | None) -> list[Chart]:
    """Return the charts of one line. A chart without data is left out.

    Args:
        rows: The line's models.
        seen: The line's images.
        named: The model that the verdict names.
    """
    models = sorted(row.model for row in rows)  # so that a model has the same colour on every line
    found = [
        _against(rows, named, "ms an image", lambda row: row.speed.p50_ms if row.speed else None),
        _against(rows, named, "MB on disk", lambda row: row.size.disk_mb if row.size else None),
        _histogram(seen, named or next((row.model for row in rows if row.quality), "")),
        _curves(seen, models, "ROC", _roc),
        _curves(seen, models, "precision and recall", _precision_recall),
    ]
    return [chart for chart in found if chart is not None]


def _against(
    rows: Sequence[BoardRow], named: str | None, what: str, cost: Callable[[BoardRow], float | None]
) -> Chart | None:
    """Image AUROC against a cost, with the Pareto front: the models that no other beats in both."""
    points = [
        (row.model, row.quality.image_auroc, at)
        for row in rows
        if row.quality and row.quality.image_auroc.value is not None and (at := cost(row))
    ]
    if len(points) < 2:
        return None
    models = [model for model, _, _ in points]
    costs = [at for _, _, at in points]
    values = [number.value or 0.0 for _, number, _ in points]
    lows = [number.low if number.low is not None else number.value for _, number, _ in points]
    highs = [number.high if number.high is not None else number.value for _, number, _ in points]
    front = sorted(
        (at, value)
        for at, value in zip(costs, values, strict=True)
        if not any(o <= at and v >= value and (o, v) != (at, value) for o, v in zip(costs, values, strict=True))
    )
    figure = _figure(what, "image AUROC")
    figure.add_scatter(
        x=[at for at, _ in front], y=[value for _, value in front], mode="lines", name="Pareto front",
        line={"dash": "dot", "color": "#7F7F7F", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=costs, y=values, mode="markers+text", text=[_short(model) for model in models], textposition="top center",
        marker={"size": 10, "color": [COLOURS[1] if model == named else COLOURS[0] for model in models]},
        error_y={
            "array": [(high or 0.0) - value for high, value in zip(highs, values, strict=True)],
            "arrayminus": [value - (low or 0.0) for low, value in zip(lows, values, strict=True)],
            "thickness": 1,
            "color": "#7F7F7F",
        },
        hovertemplate="%{text}: %{y:.3f} at %{x:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(type="log")
    figure.update_yaxes(range=[min(low or 0.0 for low in lows) - 0.03, 1.08])
    figure.update_layout(showlegend=False, margin={"b": 52})
    return _chart(f"Quality against {what} (95 % interval)", f"image AUROC against {what}, by model", figure)


def _histogram(seen: Sequence[ScoredImage], model: str) -> Chart | None:
    """How far the images of each label lie above the threshold of one model."""
    by_label = {
        label: [one.excess[model] for one in seen if one.label == label and model in one.excess] for label in CLASSES
    }
    if not any(by_label.values()):
        return None
    low, high = SHOWN_EXCESS
    figure = _figure("excess (0: the threshold)", "images")
    edges = {"start": low, "end": high, "size": (high - low) / BINS}
    for label, values in by_label.items():
        if values:
            name, colour = CLASSES[label]
            figure.add_histogram(
                x=np.clip(values, low, high - 1e-9).round(4).tolist(), name=f"{name} ({len(values)})",
                marker={"color": colour}, opacity=0.65, xbins=edges, autobinx=False,
            )  # fmt: skip
    figure.update_layout(barmode="overlay")
    figure.add_vline(x=0, line={"dash": "dash"})
    return _chart(f"Scores of {model} and its threshold", f"histogram of the scores of {model} by label", figure)


Points = tuple[Floats, Floats]


def _curves(
    seen: Sequence[ScoredImage], models: Sequence[str], title: str, of: Callable[[Floats, Floats], Points]
) -> Chart | None:
    x_title, y_title = ("false alarms", "recall") if title == "ROC" else ("recall", "precision")
    figure, drawn = _figure(x_title, y_title), 0
    for at, model in enumerate(models):
        ok, ng = (
            np.array([one.excess[model] for one in seen if one.label == label and model in one.excess])
            for label in ("ok", "ng")
        )
        if len(ok) and len(ng):
            x, y = of(*_ranked(ok, ng))
            kept = np.unique(np.linspace(0, len(x) - 1, POINTS).astype(int))
            line = {"color": COLOURS[at % len(COLOURS)], "dash": DASHES[at // len(COLOURS) % len(DASHES)], "width": 1.5}
            figure.add_scatter(x=x[kept].round(4).tolist(), y=y[kept].round(4).tolist(), name=_short(model), line=line)
            drawn += 1
    if not drawn:
        return None
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1.02])
    below = max(140, 60 + 20 * math.ceil(drawn / 2))  # two names to a row of the legend
    figure.update_layout(height=240 + below, margin={"b": below})
    return _chart(title.capitalize() if title != "ROC" else title, f"{title} curves, by model", figure)


def _ranked(ok: Floats, ng: Floats) -> tuple[Floats, Floats]:
    """Counts of OK and NG images at each distinct score, the highest first."""
    scores, place = np.unique(-np.concatenate([ok, ng]), return_inverse=True)
    normal = np.bincount(place[: len(ok)], minlength=len(scores)).astype(np.float64)
    return normal, np.bincount(place[len(ok) :], minlength=len(scores)).astype(np.float64)


def _roc(normal: Floats, anomalous: Floats) -> Points:
    return curves.shares(normal), curves.shares(anomalous)


def _precision_recall(normal: Floats, anomalous: Floats) -> Points:
    hits = np.cumsum(anomalous)
    return hits / hits[-1], hits / (hits + np.cumsum(normal))


def _short(name: str) -> str:
    """A name short enough to leave room for the chart; the board has all of it."""
    flat = " ".join(name.split())
    return flat if len(flat) <= NAME_CHARS else f"{flat[:NAME_CHARS]}…"


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure(layout={"template": None})
    figure.update_layout(
        # Room for the legend is set here: Plotly's own search for it can give up.
        margin={"l": 52, "r": 12, "t": 12, "b": 140, "autoexpand": False},
        height=380,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.2},
        font={"size": 12},
    )
    grid = {"gridcolor": "rgba(127,127,127,0.25)", "zeroline": False}
    figure.update_xaxes(title=x_title, **grid)
    figure.update_yaxes(title=y_title, **grid)
    return figure


def _chart(title: str, alt: str, figure: go.Figure) -> Chart:
    # Inside a script element only "</" could end it.
    return Chart(title, alt, figure.to_json().replace("<", "\\u003c"))
