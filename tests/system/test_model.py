"""The arithmetic of docs/scale.md, on figures that can be reckoned by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale.figures import Decoding, Driver, Sample, Step, Unit, Waiting, keep, read
from benchmarks.scale.model import Assumed, decodes, driver_ms, merging_ms, parts, requests, scoring_s
from benchmarks.scale.page import page

DRIVER = Driver(
    lines=2, models=5, units=10, tasks=40, failed=0, nodes=1, cpus=1, gpus=1, store="folder", wall_s=1.0,
    plan_ms=1.0, start_ms=1.0, cpu_ms=4.0, main_ms=2.0, aggregator_ms=3.0, load=0.0, samples=(Sample(1.0, 100.0),),
)  # fmt: skip
UNIT = Unit(
    shards=2,
    images=64,
    train_images=64,
    pixels=1,
    network=1,
    steps=(
        Step("train", 1, 4, 10.0, 20.0),
        Step("score a shard", 6, 7, 100.0, 200.0),
        Step("merge a shard", 5, 0, 20.0, 40.0),
        Step("close", 2, 2, 40.0, 80.0),
        Step("measure", 7, 2, 100.0, 200.0),
        Step("enter", 5, 1, 10.0, 20.0),
    ),
)
DECODING = Decoding(
    side_px=1024, kind="png", network_px=256, decode_per_s=50.0, read_per_s=20000.0, heat_ms=50.0, sketch_ms=30.0
)
ASSUMED = Assumed(unit_s=10.0, shards=3, images=100, request_ms=10.0, images_per_s=100.0)


def test_what_a_unit_asks_for() -> None:
    assert requests(UNIT, 2) == (1 + 2 * 11 + 2 + 7 + 5, 4 + 2 * 7 + 2 + 2 + 1)
    assert driver_ms(DRIVER, 1) == 4.0
    assert driver_ms(DRIVER, 3) == 6.0  # six jobs in place of four
    assert merging_ms(UNIT, ASSUMED) == (3 * 20.0 + 40.0, 100.0 + (3 * 5 + 4) * 10.0)


def test_who_is_full_first() -> None:
    found = {part.name: part for part in parts(DRIVER, UNIT, DECODING, ASSUMED)}
    alone = found["one actor that merges all units"]
    assert alone.busy[100] == pytest.approx(10 * 0.3)  # 10 units a second, 290 + 10 ms each
    assert alone.full_at == pytest.approx(100 / 3)
    assert found["the driver"].full_at == pytest.approx(10 / 0.006)
    assert found["8 cores of each GPU, merging"].busy[1000] == pytest.approx(0.29 / (10 * 8))
    assert found["S3 writes of one prefix"].busy[1000] == pytest.approx(100 * (9 + 21) / 3500)


def test_an_image_is_decoded_once_per_node_that_asks_for_it() -> None:
    assert decodes(8, ASSUMED) == pytest.approx(1 / 10)
    assert decodes(16, ASSUMED) == pytest.approx(2 * (1 - 0.5**10) / 10)
    assert decodes(8_000_000, ASSUMED) == pytest.approx(1.0, abs=1e-4)
    assert scoring_s(DECODING, ASSUMED, 8) == pytest.approx((0.2, 5.0, 1.0))


def test_the_page_is_written_from_what_was_kept(tmp_path: Path) -> None:
    where = tmp_path / "scale.json"
    keep("unit", UNIT, where)
    assert [part.name for part in parts(None, UNIT, DECODING, ASSUMED)] == [
        part.name for part in parts(DRIVER, UNIT, DECODING, ASSUMED) if part.name != "the driver"
    ]
    assert "On 10, 100 and 1,000 GPUs" not in page(read(where))
    keep("driver", DRIVER, where)
    keep("decoding", (DECODING,), where)
    keep("waiting", (Waiting(16, 0.5),), where)
    known = read(where)
    assert (known["unit"], known["driver"], known["decoding"]) == (UNIT, DRIVER, (DECODING,))
    text = page(known)
    assert "Scheduling a unit costs the driver **4.00 ms** of CPU" in text
    assert "## workers\n\nNot measured yet." in text
    assert "would saturate first**, at" in text
