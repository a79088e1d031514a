"""Detectors by name: resolve a name and settings to a spec, build it, save it, load it.

Imports neither torch nor anomalib; a detector's module is imported when one is built.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from raybench.detectors import plugins, settings
from raybench.detectors.protocol import Detector, FitContext, ModelSpec
from raybench.detectors.tiled import Tiled
from raybench.detectors.weights.catalog import ASSETS, BACKBONES, DINOV2, LITE0
from raybench.errors import ExperimentError, InputError, IntegrityError, UnknownName, did_you_mean

FORMAT_VERSION = 2
DETECTOR_FILE = "detector.json"


@dataclass(frozen=True)
class _Entry:
    summary: str
    module: str
    builder: str
    settings: type[settings.Settings]
    stride: int = 32
    min_side: int = 64
    for_tests: bool = False


_ENTRIES: Mapping[str, _Entry] = {
    "padim": _Entry(
        "one Gaussian per patch position; quick to train, wants aligned parts",
        "padim", "Padim", settings.PadimSettings,
    ),
    "patchcore": _Entry(
        "nearest neighbour in a memory of OK patches; strong default",
        "patchcore", "Patchcore", settings.PatchcoreSettings,
    ),
    "dfm": _Entry(
        "what principal components of OK features lose; quickest, coarse heat map",
        "dfm", "Dfm", settings.DfmSettings,
    ),
    "stfpm": _Entry(
        "a student learns the teacher's features on OK images; where it cannot is the defect",
        "stfpm", "Stfpm", settings.StfpmSettings,
    ),
    "reverse_distillation": _Entry(
        "a decoder learns to rebuild OK features; where it fails is the defect",
        "reverse_distillation", "ReverseDistillation", settings.ReverseDistillationSettings,
    ),
    "efficient_ad": _Entry(
        "small student, teacher and autoencoder; fast on a GPU, slow to train",
        "efficient_ad", "EfficientAd", settings.EfficientAdSettings, min_side=256,
    ),
    "fastflow": _Entry(
        "normalizing flows over feature maps: how likely is what is seen",
        "fastflow", "Fastflow", settings.FastflowSettings,
    ),
    "cflow": _Entry(
        "normalizing flows over features, told their place; slow to score on a CPU",
        "cflow", "Cflow", settings.CflowSettings,
    ),
    "supersimplenet": _Entry(
        "learns to tell OK features from disturbed ones",
        "supersimplenet", "Supersimplenet", settings.SupersimplenetSettings, min_side=128,
    ),
    "draem": _Entry(
        "learns from scratch to repair made anomalies and to find them; wants a GPU",
        "draem", "Draem", settings.DraemSettings,
    ),
    "fake": _Entry(
        "distance to the mean OK image; for tests, no torch",
        "fake", "Fake", settings.FakeSettings, stride=1, min_side=2, for_tests=True,
    ),
}  # fmt: skip


ANOMALIB = "anomalib:"


def names() -> tuple[str, ...]:
    """The ten models that come with raybench, sorted."""
    return tuple(sorted(name for name, entry in _ENTRIES.items() if not entry.for_tests))


def resolve(name: str, config: Mapping[str, Any], preset: str = "paper") -> ModelSpec:
    """The spec of a model with `config` over the defaults of `preset` (one of `settings.PRESETS`).

    name: one of `names`, `anomalib:Class`, `package.module:Class`, or an entry point `raybench.detectors`.
    Raises UnknownName (no such model), InputError (no such module), ExperimentError (every unknown or unfit setting at
    once).
    """
    if _is_own(name):
        return plugins.spec(name, config)
    entry = _entry(name)
    defaults = entry.settings.CPU if preset == "cpu" else {}
    try:
        checked = entry.settings.model_validate({**defaults, **config})
    except ValidationError as error:
        raise ExperimentError(f"model {name!r}", _problems(error, entry.settings)) from None
    chosen = checked.model_dump()
    return ModelSpec(
        name=name,
        summary=entry.summary,
        config=chosen,
        weights={name: ASSETS[name].sha256 for name in _weights(checked)},
        stride=chosen.get("stride", entry.stride),
        min_side=chosen.get("min_side", entry.min_side),
    )


def _weights(chosen: settings.Settings) -> Iterator[str]:
    """Names of the weights that a detector with these settings loads."""
    if isinstance(chosen, settings.OnBackbone | settings.AnomalibSettings):
        asset = DINOV2 if chosen.backbone == DINOV2 else BACKBONES[chosen.backbone].asset
        yield from filter(None, [asset])
    if isinstance(chosen, settings.EfficientAdSettings):
        yield LITE0 if chosen.teacher == "line" else chosen.teacher
        if chosen.not_ok != "line":
            yield chosen.not_ok
    if isinstance(chosen, settings.DraemSettings) and chosen.textures != "line":
        yield chosen.textures


@dataclass(frozen=True)
class InputSize:
    """Of the images a detector takes, in pixels. tile: side of the square tiles its network sees; 0: the whole."""

    height: int
    width: int
    tile: int = 0


def create(spec: ModelSpec, size: InputSize, context: FitContext) -> Detector:
    """An untrained detector for images of `size`. Raises InputError on an unfit one."""
    if size.tile:
        inner = _create(spec, size.tile, size.tile, context)
        return Tiled(inner, size.height, size.width, size.tile)
    return _create(spec, size.height, size.width, context)


def _create(spec: ModelSpec, height: int, width: int, context: FitContext) -> Detector:
    for side in (height, width):
        if side % spec.stride or side < spec.min_side:
            raise InputError(
                f"model {spec.name!r} takes sides of at least {spec.min_side} px that are multiples of "
                f"{spec.stride} px, not {height}x{width}"
            )
    if _is_own(spec.name):
        return plugins.create(spec, height, width, context)
    entry = _entry(spec.name)
    builder = getattr(importlib.import_module(f"raybench.detectors.{entry.module}"), entry.builder)
    chosen = entry.settings(**spec.config)
    if spec.name.startswith(ANOMALIB):
        return cast(Detector, builder(spec.name.removeprefix(ANOMALIB), chosen, height, width, context))
    return cast(Detector, builder(chosen, height, width, context))


def save_detector(detector: Detector, spec: ModelSpec, size: InputSize, folder: Path) -> None:
    """Write a fitted detector into an existing empty folder; `detector.json` is written last."""
    detector.save(folder)
    about = {
        "format": FORMAT_VERSION,
        "spec": asdict(spec),
        "size": asdict(size),
        "card": asdict(detector.card()),
    }
    (folder / DETECTOR_FILE).write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")


def load(folder: Path, device: str, threads: int) -> Detector:
    """A detector that `save_detector` wrote, ready to score. Raises IntegrityError on any other content."""
    try:
        about = json.loads((folder / DETECTOR_FILE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT_VERSION:
            raise IntegrityError(f"{folder}: detector format {about['format']}, expected {FORMAT_VERSION}")
        spec = ModelSpec(**about["spec"])
        detector = create(spec, InputSize(**about["size"]), FitContext(device=device, threads=threads))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder} is not a saved detector: {error!r}") from error
    detector.restore(folder)
    return detector


def _is_own(name: str) -> bool:
    return name not in _ENTRIES and not name.startswith(ANOMALIB) and (":" in name or name in plugins.registered())


def _entry(name: str) -> _Entry:
    if name.startswith(ANOMALIB):
        return _anomalib_entry(name)
    if name not in _ENTRIES:
        raise UnknownName("model", name, (*names(), *plugins.registered()))
    return _ENTRIES[name]


def _anomalib_entry(name: str) -> _Entry:
    known = {f"{ANOMALIB}{each}" for each in _anomalib_names()}
    if name not in known:
        raise UnknownName("model", name, known)
    summary = f"anomalib's {name.removeprefix(ANOMALIB)}, trained by its Engine"
    return _Entry(summary, "anomalib_adapter", "AnyAnomalib", settings.AnomalibSettings)


@functools.cache
def _anomalib_names() -> frozenset[str]:
    """The image models of the installed anomalib, read from its source: importing it takes ten seconds and torch."""
    found = importlib.util.find_spec("anomalib")
    if found is None or found.origin is None:
        raise InputError("anomalib is not installed")
    path = Path(found.origin).parent / "models" / "image" / "__init__.py"
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return frozenset(alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names)


def _problems(error: ValidationError, model: type[settings.Settings]) -> list[str]:
    return [_problem(fault["type"], str(fault["loc"][0]), fault["msg"], fault["input"], model)
            for fault in error.errors()]  # fmt: skip


def _problem(kind: str, key: str, message: str, value: object, model: type[settings.Settings]) -> str:
    if kind == "extra_forbidden":
        return f"unknown setting {key!r}; {did_you_mean(key, model.model_fields)}"
    return f"{key}: {message[0].lower()}{message[1:]}, not {value!r}"
