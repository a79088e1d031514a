"""The models on a device without values (see `tests.support.fake_device`): nothing is left on the CPU.

A real GPU would also refuse to mix devices, but it would not complain about a step that waits for it or that copies
constants to it.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch

from raybench.detectors import backbone, device_images, registry
from raybench.detectors.registry import InputSize
from tests.support.fake_device import DEVICE, FakeDevice
from tests.support.fitting import CONFIG, REAL, SIZE, Images, context_of

UNTRAINED = {"padim", "patchcore", "dfm", "anomaly_dino"}
WAITING = {"dinomaly", "inp_former"}
"""Their optimiser and losses, anomalib's, ask the device for the size of each parameter's step and for easy patches."""
TRAINED = tuple(name for name in REAL if name not in UNTRAINED | WAITING)
UPLOADS = {"cflow": 6, "draem": 12, "efficient_ad": 20}
"""The most copies to the device per step: new images, indices, and draws of the CPU."""


@pytest.fixture(autouse=True)
def placed(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone.lite0_state()  # torch.load returns tensors without values while the device is active
    monkeypatch.setattr(device_images, "total_memory_mb", lambda device: 1000.0)
    monkeypatch.setattr(torch, "autocast", lambda **options: contextlib.nullcontext())  # it knows real devices only


@functools.cache
def fit(name: str, steps: int) -> tuple[Any, FakeDevice]:
    """Fit a detector by so many steps of each phase."""
    config = CONFIG[name] | {key: steps for key in CONFIG[name] if key.endswith("steps") and key != "flow_steps"}
    if name == "patchcore":
        config["coreset_ratio"] = 0.01
    height, width = SIZE.get(name, (64, 96))
    spec = registry.resolve(name, config, "cpu")
    context = context_of(spec, device=DEVICE)
    detector = registry.create(spec, InputSize(height, width), context)
    with FakeDevice() as device:
        detector.fit(Images(4, height, width), context)
    return detector, device


@pytest.mark.parametrize("name", REAL)
def test_training_and_scoring_stay_on_the_device(name: str) -> None:
    detector, device = fit(name, 1)
    state = [*detector.scorer.parameters(), *detector.scorer.buffers()]
    assert {str(tensor.device) for tensor in state} == {DEVICE}
    pixels = torch.from_numpy(Images(3, detector.height, detector.width).pixels).permute(0, 3, 1, 2) / 255
    uploads, waits = device.uploads, device.waits.total()
    with device, torch.no_grad():
        output = detector.scorer(pixels.to(DEVICE))
    assert (str(output.pred_score.device), str(output.anomaly_map.device)) == (DEVICE, DEVICE)
    assert device.uploads == uploads + 1
    assert device.waits.total() == waits


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_waits_for_nothing(name: str) -> None:
    (_, few), (_, more) = fit(name, 1), fit(name, 2)
    read_at_the_end = 0 if name == "efficient_ad" else 1  # its loss
    assert more.waits.total() - few.waits.total() == read_at_the_end
    assert more.uploads - few.uploads <= UPLOADS.get(name, 3), more.uploads - few.uploads
