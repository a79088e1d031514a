"""Detectors by name: resolve a name and settings to a spec; create, save and load a detector.

Imports neither torch nor anomalib; a detector's module is imported when one is created.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from raybench.detectors import plugins
from raybench.detectors.protocol import Detector, FitContext, ModelSpec, OnDevice
from raybench.detectors.settings import MODELS, NAMED, OWN, AnomalibSettings, Model, OnBackbone, Settings, TimmBackbone
from raybench.detectors.tiled import DeviceTiled, Tiled
from raybench.detectors.weights.catalog import ASSETS, LITE0, UNKNOWN
from raybench.errors import ExperimentError, InputError, IntegrityError, UnknownName, did_you_mean

FORMAT_VERSION = 2
DETECTOR_FILE = "detector.json"


ANOMALIB = "anomalib:"


def names() -> tuple[str, ...]:
    """Return the names of the built-in models, sorted."""
    return tuple(sorted(MODELS))


def default_names() -> tuple[str, ...]:
    """Return the models that run where an experiment names none: the ten whose weights come with the installation."""
    return tuple(name for name in names() if set(resolve(name, {}).weights) <= {LITE0})


def resolve(name: str, config: Mapping[str, Any], preset: str = "paper") -> ModelSpec:
    """Return the spec of a model with `config` over the defaults of a preset.

    Args:
        name: One of `names`, `anomalib:Class`, `package.module:Class`, or an entry point `raybench.detectors`.
        config: Settings of the experiment file.
        preset: One of `settings.PRESETS`.

    Raises:
        UnknownName: There is no such model.
        InputError: There is no such module.
        ExperimentError: Settings are unknown or invalid; the error lists all.
    """
    if _is_plugin(name):
        return plugins.spec(name, config)
    model = _find(name)
    defaults = model.settings.CPU if preset == "cpu" else {}
    try:
        checked = model.settings.model_validate({**defaults, **config})
    except ValidationError as error:
        problems = [_problem(fault, model.settings) for fault in error.errors()]
        raise ExperimentError(f"model {name!r}", problems) from None
    chosen = checked.model_dump()
    return ModelSpec(
        name=name,
        summary=model.summary,
        config=chosen,
        weights={asset.name: asset.sha256 for asset in checked.weights()},
        stride=chosen.get("stride", model.stride),
        min_side=chosen.get("min_side", model.min_side),
    )


def chosen_by_store(name: str, in_store: Container[str]) -> dict[str, Any]:
    """Return the settings of a model whose defaults depend on the weights store, by key.

    Args:
        name: As in `resolve`; a name that does not exist has none.
        in_store: Names of the weights that the weights store holds.
    """
    if name not in MODELS:
        return {}
    settings = MODELS[name].settings
    return {
        key: asset if asset in in_store else settings.model_fields[key].default
        for key, asset in settings.FROM_STORE.items()
    }


@dataclass(frozen=True)
class InputSize:
    """Size of the images that a detector takes."""

    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    tile: int = 0
    """Side of the square tiles that its network sees, in pixels. 0: it sees the whole image."""


def create(spec: ModelSpec, size: InputSize, context: FitContext) -> Detector:
    """Create an untrained detector. Raises InputError if the model does not take images of this size."""
    if size.tile:
        inner = _create(spec, size.tile, size.tile, context)
        kind = DeviceTiled if isinstance(inner, OnDevice) else Tiled
        return kind(inner, size.height, size.width, size.tile)
    return _create(spec, size.height, size.width, context)


def licences(name: str, weights: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the licences of a model's code and weights by what they are of: SPDX identifiers, or words.

    A class of the user's own states its licence as a literal `licence`, and a backbone of the user's own in its
    settings; it is "unknown" otherwise.
    """
    if name not in MODELS and not name.startswith(ANOMALIB):
        return {"its code": plugins.licence(name)}
    own = config["backbone"].get("licence", UNKNOWN) if own_backbone(name, config) else UNKNOWN
    stated = {asset: ASSETS[asset].licence if asset in ASSETS else own for asset in weights}
    return {"its code": "Apache-2.0"} | {f"its weights `{asset}`": licence for asset, licence in stated.items()}


def own_backbone(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a model computes features by a network of the user's own."""
    return name in MODELS and isinstance(config.get("backbone"), Mapping)


def check_backbone(name: str, config: Mapping[str, Any], context: FitContext) -> None:
    """Build a model's backbone and load its file. Raises InputError, WeightsMissing or WeightsCorrupt, as training."""
    from raybench.detectors import backbone  # torch takes seconds to import

    backbone.check(cast(OnBackbone, MODELS[name].settings(**config)), context)


def uses_torch(name: str) -> bool:
    """Whether a model computes with torch. Unknown for a class of the user's own: False."""
    return not _is_plugin(name)


def _create(spec: ModelSpec, height: int, width: int, context: FitContext) -> Detector:
    if context.device != "cpu":
        from raybench.detectors import device  # torch takes seconds to import

        device.use_exact_floats()
    for side in (height, width):
        if side % spec.stride or side < spec.min_side:
            raise InputError(
                f"model {spec.name!r} takes sides of at least {spec.min_side} px that are multiples of "
                f"{spec.stride} px, not {height}x{width}"
            )
    if _is_plugin(spec.name):
        return plugins.create(spec, height, width, context)
    model = _find(spec.name)
    module, _, class_name = model.builder.partition(":")
    builder = getattr(importlib.import_module(f"raybench.detectors.{module}"), class_name)
    chosen = model.settings(**spec.config)
    if spec.name.startswith(ANOMALIB):
        return cast(Detector, builder(spec.name.removeprefix(ANOMALIB), chosen, height, width, context))
    return cast(Detector, builder(chosen, height, width, context))


def save_detector(detector: Detector, spec: ModelSpec, size: InputSize, folder: Path) -> None:
    """Write a fitted detector into an existing empty folder; `detector.json` is written last."""
    detector.save(folder)
    description = {
        "format": FORMAT_VERSION,
        "spec": asdict(spec),
        "size": asdict(size),
        "card": asdict(detector.card()),
    }
    (folder / DETECTOR_FILE).write_text(json.dumps(description, indent=2, sort_keys=True), encoding="utf-8")


def load(folder: Path, device: str, threads: int) -> Detector:
    """Load a detector that `save_detector` wrote, ready to score. Raises IntegrityError for any other content."""
    try:
        description = json.loads((folder / DETECTOR_FILE).read_text(encoding="utf-8"))
        if description["format"] != FORMAT_VERSION:
            raise IntegrityError(f"{folder}: detector format {description['format']}, expected {FORMAT_VERSION}")
        spec = ModelSpec(**description["spec"])
        size = InputSize(**description["size"])
        detector = create(spec, size, FitContext(device=device, threads=threads))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder} is not a saved detector: {error!r}") from error
    detector.restore(folder)
    return detector


def _is_plugin(name: str) -> bool:
    return name not in MODELS and not name.startswith(ANOMALIB) and (":" in name or name in plugins.registered())


def _find(name: str) -> Model:
    if name.startswith(ANOMALIB):
        known = {f"{ANOMALIB}{each}" for each in _anomalib_names()}
        if name not in known:
            raise UnknownName("model", name, known)
        summary = f"anomalib's {name.removeprefix(ANOMALIB)}, trained by its Engine"
        return Model(name, summary, "anomalib_adapter:AnyAnomalib", AnomalibSettings)
    if name not in MODELS:
        raise UnknownName("model", name, (*names(), *plugins.registered()))
    return MODELS[name]


@functools.cache
def _anomalib_names() -> frozenset[str]:
    """Return the image models of the installed anomalib.

    They are read from its source, because its import takes ten seconds and torch.
    """
    module = importlib.util.find_spec("anomalib")
    if module is None or module.origin is None:
        raise InputError("anomalib is not installed")
    path = Path(module.origin).parent / "models" / "image" / "__init__.py"
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return frozenset(alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names)


def _problem(fault: ErrorDetails, settings: type[Settings]) -> str:
    path = [str(part) for part in fault["loc"] if part not in (NAMED, OWN)]
    key, message = ".".join(path), fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = settings.model_fields if len(path) == 1 else TimmBackbone.model_fields
        return f"unknown setting {key!r}; {did_you_mean(path[-1], known)}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    found = "" if fault["type"] == "value_error" else f", not {fault['input']!r}"
    return ": ".join(filter(None, (key, f"{message[0].lower()}{message[1:]}{found}")))
