from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raybench.analysis.watch import watch
from raybench.errors import InputError
from raybench.report.textfile import GAUGES, write_gauges
from tests.support.batches import darker, made_batch


def test_prometheus_reads_the_gauges(tmp_path: Path) -> None:
    days = [made_batch(day, line='a"\\\n') for day in range(20)]
    found = watch("night", days + [darker(made_batch(day, line='a"\\\n')) for day in range(20, 32)])
    write_gauges(found, tmp_path / "bottle.prom")
    assert [path.name for path in tmp_path.iterdir()] == ["bottle.prom"]
    families = {each.name: each for each in text_string_to_metric_families((tmp_path / "bottle.prom").read_text())}
    assert families.keys() == GAUGES.keys()
    assert all(sample.labels["line"] == 'a"\\\n' for each in families.values() for sample in each.samples)
    changed = {each.labels["value"]: each.value for each in families["raybench_watch_value_changed"].samples}
    assert changed == {"scores": 0, "brightness": 1, "contrast": 0, "sharpness": 0}
    assert families["raybench_watch_changed"].samples[0].value == 1


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    found = watch("night", [made_batch(0)])
    for name in ("bottle.txt", "missing/bottle.prom"):
        with pytest.raises(InputError):
            write_gauges(found, tmp_path / name)
