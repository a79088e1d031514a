"""Public data sets as they are downloaded: a few files of each, under the names that they have there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from raybench.data.decode import encode_mask
from raybench.data.layouts import FolderListing, list_images
from raybench.data.pack import pack
from raybench.errors import LineError
from raybench.store import open_store

CLEAN, MARKED = (encode_mask(np.full((6, 8), value, np.bool_)) for value in (False, True))


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def look(folder: Path, line: str = "line") -> FolderListing:
    return list_images(open_store(str(folder)), line=line)


def rejects(found: FolderListing) -> list[tuple[str, str]]:
    return [(reject.path, reject.reason) for reject in found.rejects]


def test_kolektor(tmp_path: Path) -> None:
    """Whether an image is OK is said by its mask alone, and the second half of the items is for testing."""
    files = {f"kos0{item}/Part{part}.jpg": b"x" for item in (1, 2, 3, 4) for part in (0, 1)}
    files |= {key.replace(".jpg", "_label.bmp"): CLEAN for key in files}
    files |= {"kos01/Part1_label.bmp": MARKED, "kos03/Part1_label.bmp": MARKED, "kos04/Part1_label.bmp": b"cut off"}
    files |= {"kos05/Part0.jpg": b"x", "extra.jpg": b"x", "kos02/Part7_label.bmp": CLEAN, "kos01/video.avi": b"x"}
    del files["kos02/Part1_label.bmp"]
    found = look(tree(tmp_path, files))
    assert found.layout == "kolektor"
    assert [(item.image_id, item.split, item.label, item.group, item.mask_keys) for item in found.items] == [
        ("kos03/Part0.jpg", "test", "ok", "kos03", ("kos03/Part0_label.bmp",)),
        ("kos03/Part1.jpg", "test", "ng", "kos03", ("kos03/Part1_label.bmp",)),
        ("kos04/Part0.jpg", "test", "ok", "kos04", ("kos04/Part0_label.bmp",)),
        ("kos01/Part0.jpg", "train", "ok", "kos01", ("kos01/Part0_label.bmp",)),
        ("kos02/Part0.jpg", "train", "ok", "kos02", ("kos02/Part0_label.bmp",)),
    ]
    assert rejects(found) == [
        ("extra.jpg", "not_in_layout"),
        ("kos01/Part1.jpg", "ng_in_train"),
        ("kos01/Part1_label.bmp", "mask_unused"),
        ("kos01/video.avi", "not_an_image"),
        ("kos02/Part1.jpg", "bad_label"),
        ("kos02/Part7_label.bmp", "mask_unused"),
        ("kos04/Part1.jpg", "bad_label"),
        ("kos04/Part1_label.bmp", "mask_unreadable"),
        ("kos05/Part0.jpg", "not_in_layout"),
    ]
    (said,) = found.findings
    assert said.path == "kos03"
    assert "2 items are for training, and 2 from here on for testing" in said.detail


def test_masks_of_kolektor_that_fit_no_single_image_or_are_gone_are_listed(tmp_path: Path) -> None:
    files = {"kos01/Part0.jpg": b"x", "kos01/Part0_label.bmp": CLEAN, "kos01/PART0_LABEL.BMP": MARKED}
    files |= {"kos02/Part0.jpg": b"x", "kos02/PART0.PNG": b"x", "kos02/Part0_label.bmp": CLEAN}
    files |= {"kos03/Part1_label.jpg": b"x", "kos03/Part2_mask_label.bmp": CLEAN, "kos03/Part2.jpg": b"x"}
    tree(tmp_path, files)
    (tmp_path / "kos03/Part0_label.bmp").symlink_to("nowhere")
    (tmp_path / "kos03/Part0.jpg").write_bytes(b"x")
    found = look(tmp_path)
    assert found.items == ()
    assert rejects(found) == [
        *((key, "mask_ambiguous" if "label" in key.lower() else "bad_label") for key in sorted(files)[:6]),
        ("kos03/Part0.jpg", "bad_label"),
        ("kos03/Part0_label.bmp", "mask_missing"),
        ("kos03/Part1_label.jpg", "bad_label"),
        ("kos03/Part2.jpg", "bad_label"),
        ("kos03/Part2_mask_label.bmp", "mask_unused"),
    ]


def test_kolektor_2(tmp_path: Path) -> None:
    files = {f"{split}/{number}.png": b"x" for split in ("train", "test") for number in (10000, 10001)}
    files |= {key.replace(".png", "_GT.png"): CLEAN for key in files}
    files |= {"train/10001_GT.png": MARKED, "test/10001_GT.png": MARKED, "train/folds/0.png": b"x"}
    found = look(tree(tmp_path, files))
    assert found.layout == "kolektor2"
    assert [(item.image_id, item.label, item.mask_keys) for item in found.items] == [
        ("test/10000.png", "ok", ("test/10000_GT.png",)),
        ("test/10001.png", "ng", ("test/10001_GT.png",)),
        ("train/10000.png", "ok", ("train/10000_GT.png",)),
    ]
    assert rejects(found) == [
        ("train/10001.png", "ng_in_train"),
        ("train/10001_GT.png", "mask_unused"),
        ("train/folds/0.png", "not_in_layout"),
    ]


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
candle,test,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,normal,candle/Data/Images/Normal/0002.JPG,
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
"""


def test_visa(tmp_path: Path) -> None:
    listed = [row.split(",")[3] for row in VISA.splitlines()[1:]]
    files = dict.fromkeys([key for key in listed if "0002" not in key], b"x")
    files |= {"split_csv/1cls.csv": VISA.encode(), "split_csv/2cls_fewshot.csv": b"object,split,label,image,mask\n"}
    files |= dict.fromkeys(("candle/Data/Masks/Anomaly/000.png", "candle/Data/Masks/Anomaly/001.png"), b"x")
    files |= {"candle/a.gif": b"x"}
    found = look(tree(tmp_path, files), "candle")
    assert found.layout == "visa"
    assert [(item.image_id.rpartition("/")[2], item.split, item.label, item.mask_keys) for item in found.items] == [
        ("000.JPG", "test", "ng", ("candle/Data/Masks/Anomaly/000.png",)),
        ("0001.JPG", "test", "ok", ()),
        ("0836.JPG", "train", "ok", ()),
    ]
    assert rejects(found) == [
        ("candle/Data/Images/Normal/0002.JPG", "missing_file"),
        ("candle/Data/Masks/Anomaly/001.png", "not_in_layout"),
        ("candle/a.gif", "not_an_image"),
    ]
    with pytest.raises(LineError, match=r"1cls\.csv has none named 'line'; `--line` can be candle, pcb1"):
        look(tmp_path)


def listing(*rows: tuple[str, str, str | None]) -> bytes:
    """Rows: split, path of the image, path of its mask."""
    content: dict[str, object] = {"meta": {"normal_class": "OK", "prefix": "usb/", "pre_transform": {}}}
    for split in ("train", "test"):
        content[split] = [
            {"category": "usb", "anomaly_class": path.split("/")[-3], "image_path": path, "mask_path": mask}
            for of, path, mask in rows
            if of == split
        ]
    return json.dumps(content).encode()


OK, NG = "OK/S0001/usb_0001_OK_C1.jpg", "NG/AK/S0007/usb_0007_NG_C2.jpg"


def test_real_iad(tmp_path: Path) -> None:
    mask = NG.replace(".jpg", "_mask.png")
    rows = listing(("train", OK, None), ("test", NG, mask), ("train", NG.replace("S0007", "S0008"), None))
    files = {f"realiad_1024/usb/{path}": b"x" for path in (OK, NG, mask, OK.replace("C1", "C5"))}
    files |= {"realiad_1024/usb_adaptor/OK/S0001/usb_adaptor_0001_OK_C1.jpg": b"x"}
    files |= {f"realiad_jsons/realiad_jsons{kind}/usb.json": rows for kind in ("", "_sv")}
    files |= {"realiad_jsons/realiad_jsons/usb_adaptor.json": b"{}"}
    found = look(tree(tmp_path, files), "usb")
    assert found.layout == "real-iad"
    assert [(item.split, item.label, item.defect_type, item.group) for item in found.items] == [
        ("test", "ng", "AK", "NG/AK/S0007"),
        ("train", "ok", "", "OK/S0001"),
    ]
    assert [item.mask_keys for item in found.items] == [(f"realiad_1024/usb/{mask}",), ()]
    assert rejects(found) == [
        (f"realiad_1024/usb/{NG.replace('S0007', 'S0008')}", "ng_in_train"),
        (f"realiad_1024/usb/{OK.replace('C1', 'C5')}", "not_in_layout"),
        ("realiad_jsons/realiad_jsons_sv/usb.json", "table_unused"),
    ]
    with pytest.raises(LineError, match="no listing of Real-IAD, which has meta with prefix"):
        look(tmp_path, "usb_adaptor")
    with pytest.raises(LineError, match="`--line` can be usb, usb_adaptor"):
        look(tmp_path)
    tree(tmp_path, {f"realiad_256/usb/{OK}": b"x"})
    with pytest.raises(LineError, match="are in realiad_1024/ and realiad_256/; leave one"):
        look(tmp_path, "usb")


def test_hostile_entries_of_real_iad_are_rejected_by_number(tmp_path: Path) -> None:
    good = {"image_path": OK, "mask_path": None, "anomaly_class": "OK"}
    wrong: list[object] = [{"image_path": None}, {"image_path": 7}, {"image_path": ""}, {"anomaly_class": None}]
    wrong += [{"anomaly_class": ""}, {"mask_path": 7}]
    bad = [good | cells if isinstance(cells, dict) else cells for cells in wrong] + [None, "x", [], {}]
    meta = {"normal_class": "OK", "prefix": "usb/"}
    name, image = "realiad_jsons/usb.json", f"usb/{OK}"
    tree(tmp_path, {image: b"x", name: json.dumps({"meta": meta, "train": [good, *bad], "test": []}).encode()})
    found = look(tmp_path, "usb")
    assert [item.image_id for item in found.items] == [image]
    assert sorted(rejects(found)) == sorted((f"{name} train {number}", "bad_row") for number in range(1, 11))
    lists: dict[str, list[object]] = {"train": [], "test": []}
    for hostile in (
        b"[" * 200_000,
        b"null",
        json.dumps({"meta": meta, "train": "x", "test": []}).encode(),
        json.dumps({"meta": meta | {"prefix": 7}, **lists}).encode(),
        json.dumps({"meta": meta | {"normal_class": None}, **lists}).encode(),
    ):
        with pytest.raises(LineError, match=r"usb\.json is no listing of Real-IAD"):
            look(tree(tmp_path, {name: hostile}), "usb")


def test_the_listing_of_real_iad_that_is_not_a_copy_is_used(tmp_path: Path) -> None:
    folders = ("realiad_jsons", "realiad_jsons/old", "realiad_jsons_sv", "realiad_jsons_fuiad")
    files = {f"{folder}/usb.json": listing(("train", OK, None)) for folder in folders}
    found = look(tree(tmp_path, files | {f"usb/{OK}": b"x"}), "usb")
    assert len(found.items) == 1
    assert rejects(found) == [(f"{folder}/usb.json", "table_unused") for folder in sorted(folders[1:])]


def test_a_row_of_visa_takes_no_files_of_another_object(tmp_path: Path) -> None:
    ours, theirs, mask = "candle/0.JPG", "capsules/0.JPG", "capsules/0.png"
    table = f"object,split,label,image,mask\ncandle,test,anomaly,{ours},{mask}\ncandle,train,normal,{theirs},\n"
    files = dict.fromkeys((ours, theirs, mask), b"x") | {"split_csv/1cls.csv": table.encode()}
    found = look(tree(tmp_path, files), "candle")
    assert [(item.image_id, item.mask_keys) for item in found.items] == [(ours, ())]
    assert rejects(found) == [(theirs, "path_outside"), (mask, "mask_outside")]


def test_short_rows_and_missing_columns_of_visa(tmp_path: Path) -> None:
    image = "candle/Data/Images/Normal/1.JPG"
    table = f"object,split,label,image,mask\ncandle\ncandle,train,normal\ncandle,train,normal,{image}\n"
    found = look(tree(tmp_path, {image: b"x", "split_csv/1cls.csv": table.encode()}), "candle")
    assert [item.image_id for item in found.items] == [image]
    assert rejects(found) == [(f"split_csv/1cls.csv row {number}", "path_outside") for number in (2, 3)]
    for cut_off in (f"split,label,image\ntrain,normal,{image}\n", "object,split,label,image\n", "object\ncandle\n"):
        tree(tmp_path, {"split_csv/1cls.csv": cut_off.encode()})
        with pytest.raises(LineError, match="with rows of `object` and `image`"):
            look(tmp_path, "candle")


def test_a_packed_line_has_its_labels_from_the_masks(tmp_path: Path) -> None:
    image = encode_mask(np.eye(6, 8, dtype=np.bool_))
    files = {f"kos0{item}/Part0.png": image for item in (1, 2)}
    files |= {"kos01/Part0_label.bmp": CLEAN, "kos02/Part0_label.bmp": MARKED}
    lines = open_store(str(tmp_path / "lines"))
    for item, marked in ((1, False), (2, True)):
        of_another_size = encode_mask(np.full((5, 8), marked, np.bool_))
        files |= {f"kos0{item}/Part1.png": image, f"kos0{item}/Part1_label.bmp": of_another_size}
    manifest = pack(open_store(str(tree(tmp_path / "kolektor", files))), lines, "kolektor")
    assert (manifest.layout, dict(manifest.counts)) == ("kolektor", {"train/ok": 1, "test/ng": 1})
    assert [(reject.path, reject.reason) for reject in manifest.rejects] == [
        ("kos01/Part1.png", "bad_label"),
        ("kos01/Part1_label.bmp", "mask_size"),
        ("kos02/Part1.png", "bad_label"),
        ("kos02/Part1_label.bmp", "mask_size"),
    ]
