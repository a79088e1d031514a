"""The weights store, on a real S3 server and in a folder: shape-correct files in place of the published ones."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from raybench.cli import app
from raybench.cli.weights import modern
from raybench.detectors import backbone, pdn, registry, weights
from raybench.detectors.anomalib_parts import SmallPatchDescriptionNetwork
from raybench.detectors.registry import InputSize
from raybench.detectors.settings import PRESETS
from raybench.detectors.weights import catalog, files
from raybench.detectors.weights.catalog import LITE0
from raybench.errors import InputError, UnknownName, WeightsCorrupt, WeightsMissing
from raybench.store import Store, open_store
from tests.support.dinov2 import random_bytes
from tests.support.fitting import CONTEXT, Images, few_rows


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not be the published ones, only of their shape."""
    for name, asset in catalog.ASSETS.items():
        if name != LITE0:
            monkeypatch.setitem(catalog.ASSETS, name, replace(asset, sha256=""))


@pytest.fixture
def shelf(unpublished: None, bucket: Store) -> Store:
    """An empty weights store in a bucket."""
    return bucket.sub("weights")


@pytest.fixture
def near(unpublished: None, tmp_path: Path) -> Store:
    """An empty weights store in a folder, for tests of what is done with the files."""
    return open_store(str(tmp_path / "shelf"))


@functools.cache
def resnet18() -> bytes:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model("resnet18", pretrained=False)
    # Older published files have no batch counters.
    return saved({name: value for name, value in model.state_dict().items() if "num_batches" not in name})


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def pictures(folder: Path) -> bytes:
    """A tar.gz with two pictures, as the Describable Textures and ImageNette come."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for at, picture in enumerate(np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), np.uint8)):
            cv2.imwrite(str(folder / f"{at}.jpg"), picture)
            tar.add(folder / f"{at}.jpg", f"dtd/images/banded/{at}.jpg")
    return buffer.getvalue()


def test_files_go_in_and_come_out_by_name(shelf: Store, tmp_path: Path) -> None:
    data = resnet18()
    here = weights.add(shelf, "resnet18", data)
    assert here.sha256 == hashlib.sha256(data).hexdigest()
    assert weights.stored(shelf) == {"resnet18": here}
    assert weights.resolve({"resnet18": "", LITE0: ""}, shelf) == {"resnet18": here.sha256, LITE0: catalog.LITE0_SHA256}
    wanted = {"resnet18": here.sha256, LITE0: catalog.LITE0_SHA256}
    found = weights.fetch(wanted, shelf, tmp_path)
    assert set(found) == {"resnet18"}  # the default backbone stays in its package
    assert found["resnet18"].path.read_bytes() == data
    shelf.delete(here.key)
    shelf.put(here.key, b"damaged")
    assert weights.fetch(wanted, shelf, tmp_path) == found  # once per node
    assert [whole for _, whole in weights.verify(shelf)] == [False]
    with pytest.raises(WeightsCorrupt, match="sha256 of its key"):
        weights.fetch(wanted, shelf, tmp_path / "other-node")


def test_a_name_has_one_file(shelf: Store) -> None:
    first = weights.add(shelf, "dinov2_vits14", b"one")
    assert weights.add(shelf, "dinov2_vits14", b"one") == first
    with pytest.raises(InputError, match="--replace"):
        weights.add(shelf, "dinov2_vits14", b"two")
    second = weights.add(shelf, "dinov2_vits14", b"two", replace=True)
    assert weights.stored(shelf) == {"dinov2_vits14": second}
    shelf.put(first.key, b"one")
    with pytest.raises(WeightsCorrupt, match="two files named 'dinov2_vits14'"):
        weights.stored(shelf)


def test_what_was_not_published_is_refused(bucket: Store) -> None:
    with pytest.raises(WeightsCorrupt, match=r"not resnet18-f37072fd\.pth"):
        weights.add(bucket, "resnet18", b"other")
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        weights.add(bucket, "resnet81", b"other")


def test_a_missing_file_names_the_remedy(shelf: Store, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsMissing, match=r"'wide_resnet50_2' \(wide_resnet50_2-95faca4d.pth\) are not in s3://.*mirror"
    ):
        weights.resolve({"wide_resnet50_2": ""}, shelf)
    with pytest.raises(WeightsMissing, match="no weights store is named"):
        weights.resolve({"wide_resnet50_2": ""}, None)
    with pytest.raises(WeightsMissing, match="are not in"):
        weights.fetch({"resnet18": "0" * 64}, shelf, tmp_path)


@pytest.mark.parametrize("name", ["padim", "patchcore", "dfm", "stfpm", "reverse_distillation", "fastflow", "cflow"])
def test_models_on_a_backbone_of_the_store(name: str, near: Store, tmp_path: Path) -> None:
    steps = {"steps": 1, "batch": 1} if name in ("stfpm", "reverse_distillation", "fastflow", "cflow") else {}
    spec = registry.resolve(name, {"backbone": "resnet18"} | steps, "cpu")
    assert set(spec.weights) == {"resnet18"}
    here = weights.add(near, "resnet18", resnet18())
    context = replace(CONTEXT, weights=weights.fetch({"resnet18": here.sha256}, near, tmp_path))
    detector = registry.create(spec, InputSize(64, 64), context)
    detector.fit(Images(4, 64, 64), context)
    assert detector.card().weights_note.startswith(
        f"ImageNet weights of resnet18 from the weights store, sha256 {here.sha256[:12]}"
    )
    loaded = tmp_path / "saved"
    loaded.mkdir()
    registry.save_detector(detector, spec, InputSize(64, 64), loaded)
    images = Images(2, 64, 64, seed=1).pixels
    assert np.array_equal(detector.score(images).scores, registry.load(loaded, "cpu", 1).score(images).scores)


def test_the_store_s_weights_are_what_the_backbone_has(near: Store, tmp_path: Path) -> None:
    here = weights.add(near, "resnet18", resnet18())
    context = replace(CONTEXT, weights=weights.fetch({"resnet18": here.sha256}, near, tmp_path))
    built = backbone.extractor("resnet18", 4, 8, 16)
    backbone.pretrain(built, "resnet18", context)
    state = torch.load(context.weights["resnet18"].path, weights_only=True)
    for name, value in built.feature_extractor.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[name])


def test_files_of_another_shape_are_named(near: Store, tmp_path: Path) -> None:
    here = weights.add(near, "resnet18", saved({"conv1.weight": torch.zeros(1)}))
    context = replace(CONTEXT, weights=weights.fetch({"resnet18": here.sha256}, near, tmp_path))
    with pytest.raises(WeightsCorrupt, match=r"lack bn1\.weight"):
        backbone.pretrain(backbone.extractor("resnet18", 4), "resnet18", context)


@few_rows()
def test_efficient_ad_takes_what_the_store_has_of_the_paper(near: Store, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        teacher = SmallPatchDescriptionNetwork(pdn.OFFICIAL_CHANNELS)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("efficientad/pretrained_teacher_small.pth", saved(teacher.state_dict()))
    here = [weights.add(near, "pdn-official", buffer.getvalue()), weights.add(near, "imagenette", pictures(tmp_path))]
    config = {"autoencoder_steps": 0, "steps": 0}
    assert set(registry.resolve("efficient_ad", config, "cpu").weights) == {LITE0}
    assert registry.chosen_by_store("efficient_ad", {}) == {"teacher": LITE0, "not_ok": "line"}
    assert registry.chosen_by_store("padim", weights.stored(near)) == {}
    spec = registry.resolve(
        "efficient_ad", config | registry.chosen_by_store("efficient_ad", weights.stored(near)), "cpu"
    )
    assert set(spec.weights) == {"pdn-official", "imagenette"}
    found = weights.fetch({file.name: file.sha256 for file in here}, near, tmp_path)
    context = replace(CONTEXT, weights=found)
    detector = registry.create(spec, InputSize(256, 256), context)
    detector.fit(Images(4, 256, 256), context)
    state = detector.module.teacher.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    card = detector.card()
    assert card.provenance == "official"
    assert card.weights_note.startswith(f"teacher: pdn-official from the weights store, sha256 {here[0].sha256[:12]}")
    assert "images that are not OK: ImageNette" in card.weights_note


def test_draem_takes_its_textures_from_the_store(near: Store, tmp_path: Path) -> None:
    here = weights.add(near, "dtd", pictures(tmp_path))
    spec = registry.resolve("draem", {"textures": "dtd", "steps": 2, "batch": 2, "width": 8})
    context = replace(CONTEXT, weights=weights.fetch({"dtd": here.sha256}, near, tmp_path))
    detector = registry.create(spec, InputSize(64, 64), context)
    detector.fit(Images(4, 64, 64), context)
    assert "Describable Textures" in detector.card().weights_note


def test_the_command_line(shelf: Store, tmp_path: Path) -> None:
    runner, uri = CliRunner(), shelf.uri()
    file = tmp_path / "any.pth"
    file.write_bytes(b"weights")
    assert runner.invoke(app, ["weights", "add", "dinov2_vits14", str(file), "--to", uri]).exit_code == 0
    shown = runner.invoke(app, ["weights", "list", "--to", uri])
    assert "dinov2_vits14" in shown.output
    assert hashlib.sha256(b"weights").hexdigest()[:12] in shown.output
    assert runner.invoke(app, ["weights", "verify", "--to", uri]).exit_code == 0
    shelf.put(weights.stored(shelf)["dinov2_vits14"].key, b"other")
    damaged = runner.invoke(app, ["weights", "verify", "--to", uri])
    assert (damaged.exit_code, "DAMAGED" in damaged.output) == (1, True)


def test_mirror_asks_the_publisher(shelf: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher is a folder here: the address comes from where its code keeps it."""
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"published")
    address = (tmp_path / "resnet18-f37072fd.pth").as_uri()
    asset = replace(catalog.ASSETS["resnet18"], official="raybench.detectors.weights.catalog:ADDRESS")
    monkeypatch.setattr(catalog, "ADDRESS", address, raising=False)
    monkeypatch.setitem(catalog.ASSETS, "resnet18", asset)
    assert CliRunner().invoke(app, ["weights", "mirror", "resnet18", "--to", shelf.uri()]).exit_code == 0
    assert shelf.get(weights.stored(shelf)["resnet18"].key) == b"published"
    monkeypatch.setitem(catalog.ASSETS, "resnet18", replace(asset, official=""))
    with pytest.raises(InputError, match="no publisher's address"):
        weights.published("resnet18")


def test_mirror_modern_fetches_what_the_models_need(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "published", str.encode)
    assert CliRunner().invoke(app, ["weights", "mirror", "modern", "--to", shelf.uri()]).exit_code == 0
    held = weights.stored(shelf)
    assert set(held) == set(modern())
    for preset in PRESETS:
        needed = {file for name in registry.names() for file in registry.resolve(name, {}, preset).weights}
        assert needed - {LITE0} <= set(held)


def test_a_digest_that_only_the_user_knows_is_checked(shelf: Store, tmp_path: Path) -> None:
    """The catalogue has none for files whose publisher states none."""
    runner, file, uri = CliRunner(), tmp_path / "any.pth", shelf.uri()
    file.write_bytes(b"weights")
    add, digest = ["weights", "add", "dinov2_vits14", str(file), "--to", uri], hashlib.sha256(b"weights").hexdigest()
    refused = runner.invoke(app, [*add, "--sha256", "0" * 64])
    assert refused.exit_code != 0
    assert isinstance(refused.exception, WeightsCorrupt)
    assert weights.stored(shelf) == {}
    assert runner.invoke(app, [*add, "--sha256", digest]).exit_code == 0


def test_published_addresses_exist_where_the_catalogue_says() -> None:
    """Looked up in the publishers' code, without fetching."""
    for asset in catalog.ASSETS.values():
        if asset.official:
            assert files.address(asset).endswith(f"/{asset.file}")


def test_dino_models_of_anomalib_take_dinov2_from_the_store(near: Store, tmp_path: Path) -> None:
    here = weights.add(near, "dinov2_vits14", random_bytes("dinov2_vits14"))
    spec = registry.resolve(
        "anomalib:AnomalyDINO", {"backbone": "dinov2_vits14", "stride": 14, "min_side": 56, "batch": 2}
    )
    assert set(spec.weights) == {"dinov2_vits14"}
    context = replace(CONTEXT, weights=weights.fetch({"dinov2_vits14": here.sha256}, near, tmp_path))
    detector = registry.create(spec, InputSize(56, 84), context)
    detector.fit(Images(4, 56, 84), context)
    assert detector.card().provenance == "official"
    assert here.sha256[:12] in detector.card().weights_note
    saved_to = tmp_path / "saved"
    saved_to.mkdir()
    registry.save_detector(detector, spec, InputSize(56, 84), saved_to)
    images = Images(2, 56, 84, seed=1).pixels
    again = registry.load(saved_to, "cpu", 1).score(images)  # needs no weights store
    np.testing.assert_allclose(again.scores, detector.score(images).scores, rtol=1e-5)


@pytest.mark.parametrize("digest", ["", "e", "0" * 63, "z" * 64])
def test_a_digest_is_whole(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        files.add(open_store(str(tmp_path)), "dinov2_vits14", b"content", sha256=digest)
    assert not list(tmp_path.iterdir())
