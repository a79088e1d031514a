from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import raybench

SIGNATURES = {
    "pack": "(source: 'str | Path', *, to: 'str | Path' = 'raybench-store', name: 'str | None' = None, "
    "layout: 'str' = 'auto', roi: 'str | Path | None' = None, add: 'bool' = False, progress: 'bool' = True) -> 'Line'",
    "import_labels": "(line: 'Line | str', file: 'str | Path', *, empty: \"Literal['leave', 'ok']\" = 'leave', "
    "by: 'str' = '', representative: 'bool | None' = None, rehearse: 'bool' = False) -> 'LabelImport'",
    "plan": "(experiment: 'Experiment | str | Path') -> 'Plan'",
    "run": "(experiment: 'Experiment | str | Path', *, "
    "models: 'Sequence[str | Mapping[str, Any] | ModelChoice] | None' = None, "
    "store: 'str | Path' = 'raybench-store', name: 'str | None' = None, layout: 'str' = 'auto', "
    "address: 'str | None' = None, progress: 'bool' = True, **settings: 'Any') -> 'Run'",
    "open_run": "(run: 'Experiment | str | Path') -> 'Run'",
    "Run.board": "(self) -> 'pd.DataFrame'",
    "Run.verdict": "(self, line: 'str') -> 'Verdict'",
    "Run.images": "(self, line: 'str') -> 'pd.DataFrame'",
    "Run.heatmap": "(self, line: 'str', image_id: 'str', model: 'str | None' = None) -> 'Heatmap'",
    "Run.status": "(self, line: 'str | None' = None) -> 'pd.DataFrame'",
    "Run.slices": "(self, line: 'str', model: 'str | None' = None) -> 'pd.DataFrame'",
    "Run.learning_curve": "(self, line: 'str', sizes: 'Sequence[int]' = (10, 25, 50, 100), *, "
    "models: 'Sequence[str]' = (), address: 'str | None' = None, progress: 'bool' = True) -> 'pd.DataFrame'",
    "Run.robustness": "(self, line: 'str', *, models: 'Sequence[str]' = (), images: 'int' = 200, "
    "address: 'str | None' = None, progress: 'bool' = True) -> 'pd.DataFrame'",
    "Run.flags": "(self, line: 'str | None' = None) -> 'pd.DataFrame'",
    "Run.predict": "(self, images: 'str | Path', *, line: 'str', model: 'str | None' = None, "
    "name: 'str | None' = None, at: 'str | None' = None, folder: 'str | Path' = 'out', "
    "address: 'str | None' = None, progress: 'bool' = True) -> 'pd.DataFrame'",
    "Run.watch": "(self, line: 'str', model: 'str | None' = None, *, since: 'str | None' = None, "
    "defects: 'float' = 0.0) -> 'Watch'",
    "Run.export": "(self, line: 'str', folder: 'str | Path', model: 'str | None' = None, "
    "size: 'tuple[int, int] | None' = None) -> 'Exported'",
    "check_export": "(file: 'str | Path', provider: 'str' = 'CPUExecutionProvider') -> 'ExportCheck'",
    "Run.publish": "(self, onnx: 'str | Path | None' = None) -> 'Published'",
    "Run.compare": "(self, earlier: 'Run') -> 'RunComparison'",
    "Run.report": "(self, folder: 'str | Path' = 'out') -> 'Path'",
    "Heatmap.plot": "(self) -> 'Image.Image'",
    "Experiment.from_yaml": "(path: 'str | Path') -> 'Experiment'",
    "Plan.to_frame": "(self) -> 'pd.DataFrame'",
}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_public_names() -> None:
    """What users import. A name that goes or changes its meaning breaks them: say so in CHANGELOG.md."""
    assert raybench.__all__ == [
        "Card",
        "Detector",
        "Experiment",
        "FitContext",
        "Heatmap",
        "Line",
        "ModelChoice",
        "Plan",
        "RaybenchError",
        "Run",
        "Scored",
        "TrainImages",
        "__version__",
        "check_export",
        "errors",
        "import_labels",
        "open_run",
        "pack",
        "plan",
        "run",
    ]
    for name in raybench.__all__:
        assert getattr(raybench, name).__doc__
        assert name in dir(raybench)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    found = raybench
    for part in name.split("."):
        found = getattr(found, part)
    assert str(inspect.signature(found)) == SIGNATURES[name]  # type: ignore[arg-type]
    assert found.__doc__


def test_no_public_method_is_left_out() -> None:
    methods = {name for name, _ in inspect.getmembers(raybench.Run, inspect.isfunction) if not name.startswith("_")}
    assert methods == {name.removeprefix("Run.") for name in SIGNATURES if name.startswith("Run.")}


def test_importing_is_cheap() -> None:
    heavy = ("ray", "torch", "anomalib", "pandas", "numpy", "pydantic", "pyarrow")
    assert python(f"import raybench, sys; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


def test_star_and_errors_and_version() -> None:
    code = "from raybench import *; import raybench as rb; print(run is rb.run, rb.errors.LineError.__name__)"
    assert python(code) == "True LineError\n"
    assert raybench.__version__.count(".") == 2


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'raybench' has no attribute 'runn'"):
        _ = raybench.runn  # type: ignore[attr-defined]


def test_users_see_the_types() -> None:
    assert Path(raybench.__file__).with_name("py.typed").is_file()
