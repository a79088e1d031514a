from __future__ import annotations

from pathlib import Path

import pytest

from raybench.data.layouts import FolderListing, list_images
from raybench.errors import LineError, UnknownName
from raybench.store import open_store


def tree(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    return folder


def look(folder: Path, layout: str = "auto") -> FolderListing:
    return list_images(open_store(str(folder)), layout)


def shown(found: FolderListing) -> list[tuple[str, str, str, str, str | None]]:
    return [
        (item.image_id, item.split, item.label, item.defect_type, ", ".join(item.mask_keys) or None)
        for item in found.items
    ]


def masks(found: FolderListing) -> dict[str, tuple[str, ...]]:
    return {item.image_id: item.mask_keys for item in found.items if item.mask_keys}


def test_mvtec(tmp_path: Path) -> None:
    tree(tmp_path, "train/good/1.png", "test/good/2.jpg", "test/cut/3.png", "test/cut/4.PNG", "test/hole/3.png")
    tree(tmp_path, "ground_truth/cut/3_mask.png", "ground_truth/cut/4.png", "license.txt", "train/good/.hidden.png")
    found = look(tmp_path)
    assert found.layout == "mvtec"
    assert shown(found) == [
        ("test/cut/3.png", "test", "ng", "cut", "ground_truth/cut/3_mask.png"),
        ("test/cut/4.PNG", "test", "ng", "cut", "ground_truth/cut/4.png"),
        ("test/good/2.jpg", "test", "ok", "", None),
        ("test/hole/3.png", "test", "ng", "hole", None),
        ("train/good/1.png", "train", "ok", "", None),
    ]
    assert found.rejects == ()


def test_folder(tmp_path: Path) -> None:
    tree(tmp_path, "ok/1.png", "test_ok/2.png", "ng/3.png", "ng/cut/4.png", "unlabeled/5.png", "masks/cut/4.png")
    found = look(tmp_path)
    assert found.layout == "folder"
    assert shown(found) == [
        ("ng/3.png", "test", "ng", "", None),
        ("ng/cut/4.png", "test", "ng", "cut", "masks/cut/4.png"),
        ("test_ok/2.png", "test", "ok", "", None),
        ("ok/1.png", "train", "ok", "", None),
        ("unlabeled/5.png", "unlabelled", "unknown", "", None),
    ]


def test_csv(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "a/2.png", "a/3.png", "m/2.png")
    (tmp_path / "table.csv").write_text(
        "Path,Split,Label,Mask,Defect_Type\n"
        "a/1.png,train,OK,,\n"
        "a\\2.png,test,ng,m/2.png,cut\n"
        "\n"
        "a/3.png,unlabelled,,,\n",
        encoding="utf-8-sig",
    )
    found = look(tmp_path)
    assert found.layout == "csv"
    assert shown(found) == [
        ("a/2.png", "test", "ng", "cut", "m/2.png"),
        ("a/1.png", "train", "ok", "", None),
        ("a/3.png", "unlabelled", "unknown", "", None),
    ]


def test_further_columns_of_a_table_are_attributes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("path,split,label,Camera,light\na.png,test,ok, top ,\n")
    [item] = list_images(open_store(str(tmp_path))).items
    assert item.attributes == (("camera", "top"),)


def test_a_table_may_name_groups(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "a/2.png", "a/3.png")
    (tmp_path / "table.csv").write_text(
        "path,split,label,Group\na/1.png,train,ok, part 7 \na/2.png,train,ok,part 7\na/3.png,train,ok,\n"
    )
    found = look(tmp_path)
    assert [item.group for item in found.items] == ["part 7", "part 7", ""]
    assert found.findings == ()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a/1.png,trian,ok", "bad_split"),
        ("a/1.png,train,fine", "bad_label"),
        ("a/1.png,train,ng", "ng_in_train"),
        ("../secret.png,train,ok", "path_outside"),
        ("/etc/passwd,train,ok", "path_outside"),
        ("C:\\x.png,train,ok", "path_outside"),
        (",train,ok", "path_outside"),
        ("a/none.png,train,ok", "missing_file"),
        ("a/2.png,train,ok", "duplicate_id"),
    ],
)
def test_bad_rows_are_rejected_by_number_and_the_rest_is_kept(tmp_path: Path, row: str, reason: str) -> None:
    tree(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "t.csv").write_text(f"path,split,label\na/2.png,train,ok\n{row}\n")
    found = look(tmp_path)
    assert [item.image_id for item in found.items] == ["a/2.png"]
    assert [(reject.reason, "row 3" in reject.detail) for reject in found.rejects] == [(reason, True)]


@pytest.mark.parametrize(("one", "other"), [("test,ng", "test,ok"), ("train,ok", "test,ok"), ("train,ng", "train,ok")])
def test_an_image_whose_rows_contradict_each_other_is_left_out(tmp_path: Path, one: str, other: str) -> None:
    """Neither row can be trusted, and a wrong label is worse than an image less."""
    tree(tmp_path, "1.png", "2.png")
    for first, second in ((one, other), (other, one)):
        rows = f"1.png,{first},\n2.png,train,good,\n./1.png,{second},\n2.png,train,ok,part 7\n"
        (tmp_path / "t.csv").write_text(f"path,split,label,group\n{rows}")
        found = look(tmp_path)
        assert [item.image_id for item in found.items] == ["2.png"]
        assert [(reject.path, reject.reason) for reject in found.rejects] == [
            ("1.png", "bad_label"),
            ("2.png", "duplicate_id"),
        ]
        said = [f"t.csv row {row} says {text.replace(',', '/')}" for row, text in ((2, first), (4, second))]
        assert found.rejects[0].detail.startswith(" and ".join(said) + "; the image is left out")
        assert (
            found.rejects[1].detail
            == "t.csv row 5: this path is in t.csv row 3 too with another group, and t.csv row 3 counts"
        )


def test_an_image_stays_when_its_mask_is_outside_or_missing(tmp_path: Path) -> None:
    tree(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text("path,split,label,mask\n1.png,test,ng,../m.png\n2.png,test,ng,none.png\n")
    found = look(tmp_path)
    assert [(reject.path, reject.reason) for reject in found.rejects] == [
        ("../m.png", "mask_outside"),
        ("none.png", "mask_missing"),
    ]
    assert [item.image_id for item in found.items] == ["1.png", "2.png"]
    assert masks(found) == {}


def test_a_mask_in_two_rows_is_told(tmp_path: Path) -> None:
    tree(tmp_path, "1.png", "2.png", "m.png")
    (tmp_path / "t.csv").write_text("path,split,label,mask\n1.png,test,ng,m.png\n2.png,test,ng,m.png\n")
    assert [(one.path, one.kind) for one in look(tmp_path).findings] == [("2.png", "shared mask")]


def test_a_mask_is_of_its_ng_image_only(tmp_path: Path) -> None:
    """Cameras number the images of each folder from zero."""
    tree(tmp_path, *(f"{folder}/{number}.png" for folder in ("ok", "test_ok", "ng", "masks") for number in (0, 1)))
    tree(tmp_path, "masks/2.png", "ok/2.png")
    found = look(tmp_path)
    assert masks(found) == {"ng/0.png": ("masks/0.png",), "ng/1.png": ("masks/1.png",)}
    assert [(reject.path, reject.reason) for reject in found.rejects] == [("masks/2.png", "mask_unused")]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("train/good/0.png", "test/cut/0.png", "ground_truth/cut/0.bm.png"), {"test/cut/0.png"}),  # BTAD
        (("train/ok/0.bmp", "test/ok/0.bmp", "test/ko/0.bmp", "ground_truth/ko/0.png"), {"test/ko/0.bmp"}),  # BTAD
        (("train/good/0.png", "test/cut/0.png", "ground_truth/cut/0_mask.png"), {"test/cut/0.png"}),  # MVTec AD, MPDD
        (
            (
                "train/good/0_regular.png",
                "test_public/good/0_regular.png",
                "test_public/bad/0_regular.png",
                "test_public/ground_truth/bad/0_regular_mask.png",
                "test_private/0_regular.png",
            ),
            {"test_public/bad/0_regular.png"},
        ),  # MVTec AD 2
        (
            ("train/good/0.JPG", "test/good/0.JPG", "test/bad/0.JPG", "ground_truth/bad/0.png"),
            {"test/bad/0.JPG"},
        ),  # VisA
        (
            ("Data/Images/Normal/0.JPG", "Data/Images/Anomaly/0.JPG", "Data/Masks/Anomaly/0.png"),
            None,
        ),  # VisA, as loaded
        (
            ("ok/a/0.jpg", "ok/a/0_label.bmp", "ng/a/1.jpg", "ng/a/1_label.bmp"),
            {"ok/a/0.jpg", "ng/a/1.jpg"},
        ),  # Kolektor
        (("ok/0.png", "ok/0_GT.png", "ng/1.png", "ng/1_GT.png"), {"ok/0.png", "ng/1.png"}),  # Kolektor 2
        (("OK/S1/0.jpg", "NG/HS/S1/1.jpg", "NG/HS/S1/1.png"), {"NG/HS/S1/1.jpg"}),  # Real-IAD
        (("normal/0.png", "abnormal/0.png", "mask/0.png"), {"abnormal/0.png"}),
        (("ok/0.png", "ng/cut/0.png", "masks/ng/cut/0.png"), {"ng/cut/0.png"}),
        (("ok/0.png", "ng/bad/0.png", "masks/bad/0.png"), {"ng/bad/0.png"}),
        (("ok/0.png", "NG/Cut/0.PNG", "masks/cut/0.png"), {"NG/Cut/0.PNG"}),
    ],
)
def test_masks_of_known_data_sets(tmp_path: Path, paths: tuple[str, ...], expected: set[str] | None) -> None:
    found = look(tree(tmp_path, *paths))
    assert set(masks(found)) == (expected or {"Data/Images/Anomaly/0.JPG"})
    assert found.rejects == ()
    assert len(found.items) + sum(map(len, masks(found).values())) == len(paths)


def test_all_files_of_a_folder_are_one_mask(tmp_path: Path) -> None:
    parts = ("ground_truth/cut/0/000.png", "ground_truth/cut/0/001.png")
    found = look(tree(tmp_path, "train/good/0.png", "test/cut/0.png", "validation/good/0.png", *parts))
    assert masks(found) == {"test/cut/0.png": parts}
    assert [(reject.path, reject.reason) for reject in found.rejects] == [("validation/good/0.png", "not_in_layout")]


def test_jpeg_and_png_copies_are_not_taken_for_masks_beside_a_folder_of_masks(tmp_path: Path) -> None:
    found = look(tree(tmp_path, "ok/0.png", "ng/0.jpg", "ng/0.png", "masks/0.png"))
    assert [(reject.path, reject.reason) for reject in found.rejects] == [("masks/0.png", "mask_ambiguous")]
    assert [item.image_id for item in found.items if item.label == "ng"] == ["ng/0.jpg", "ng/0.png"]


def test_what_is_not_an_image_or_not_in_the_layout(tmp_path: Path) -> None:
    tree(tmp_path, "train/good/1.png", "train/good/2.webp", "train/good/notes.txt", "train/bad/3.png", "extra/4.png")
    found = look(tmp_path)
    assert {(reject.path, reject.reason) for reject in found.rejects} == {
        ("train/good/2.webp", "not_an_image"),
        ("train/bad/3.png", "not_in_layout"),
        ("extra/4.png", "not_in_layout"),
    }
    assert len(found.items) == 1


@pytest.mark.parametrize(
    ("good", "layout"), [("train/good/1.png", "mvtec"), ("ok/1.png", "folder"), ("data/images/normal/1.png", "folder")]
)
def test_strays_of_public_data_sets_decide_no_layout(tmp_path: Path, good: str, layout: str) -> None:
    strays = ("test/odd_gt.png", "train/odd_GT.png", "a/realiad_jsons_backup/x.json", "kos01/a_label.bmp")
    found = look(tree(tmp_path, good, *strays, "split_csv/1cls.csv"))
    assert (found.layout, [item.image_id for item in found.items]) == (layout, [good])
    assert {(one.path, one.reason) for one in found.rejects} == {
        (key, "not_in_layout") for key in strays if not key.endswith("json")
    }


def test_no_layout_fits(tmp_path: Path) -> None:
    tree(tmp_path, "images/1.png")
    with pytest.raises(LineError, match="found images"):
        look(tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'mvtec'"):
        look(tmp_path, "mvtek")
    with pytest.raises(LineError, match="found 0"):
        look(tmp_path, "csv")


def test_a_folder_that_is_one_rename_away_is_told(tmp_path: Path) -> None:
    def message(name: str, *paths: str) -> str:
        with pytest.raises(LineError) as caught:
            look(tree(tmp_path / name, *paths))
        return str(caught.value)

    above = message("above", "bottle/train/good/0.png", "bottle/test/cut/0.png", "cap/ok/0.png")
    assert "bottle looks like a line of the layout mvtec, and so do 1 more folders: pack file://" in above
    assert above.endswith("/above/bottle")
    assert message("flat", "train/0.png", "test/1.png").endswith("Move the OK images of train into train/good")
    assert message("fine", "train/fine/0.png").endswith("to train/good; it holds fine")
    assert message("other", "gut/0.png").endswith("Rename the folder of OK images to train on to ok")
    assert message("bare", "0.png").endswith("Put the OK images to train on into a folder named ok")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, separator: str, encoding: str) -> None:
    tree(tmp_path, "ok/grün.png", "ok/2.png")
    rows = [
        ("Path", "Split", "Label", "Note"),
        ("ok/grün.png", "train", "ok", '"a, b; c"'),
        ("ok/2.png", "test", "ok", ""),
    ]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    found = look(tmp_path)
    assert found.layout == "csv"
    assert [(item.image_id, item.split) for item in found.items] == [("ok/2.png", "test"), ("ok/grün.png", "train")]
    assert (found.rejects, found.findings) == ((), ())


def test_a_header_that_no_csv_reader_takes_is_an_input_error(tmp_path: Path) -> None:
    tree(tmp_path, "ok/1.png")
    for header in ("path," + "x" * 200_000, "path,split\rok/1.png,train"):
        (tmp_path / "t.csv").write_text(header, newline="")
        with pytest.raises(LineError, match=r"t\.csv row"):
            look(tmp_path)


def test_a_table_that_is_not_used_is_told(tmp_path: Path) -> None:
    tree(tmp_path, "ok/1.png", "list.xlsx", "ok/notes.csv", "readme.txt")
    (tmp_path / "list.csv").write_text("file;set\nok/1.png;train\n")
    found = look(tmp_path)
    assert found.layout == "folder"
    assert [(reject.path, reject.reason) for reject in found.rejects] == [
        ("list.csv", "table_unused"),
        ("list.xlsx", "table_unused"),
    ]


def test_images_in_no_row_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, "ok/1.png", "ok/2.png", "ok/3.png")
    (tmp_path / "list.csv").write_text("path,split,label\nok/1.png,train,ok\n")
    [finding] = look(tmp_path).findings
    assert (finding.path, finding.kind) == ("list.csv", "images in no row")
    assert finding.detail == "2 images are in no row that can be used, such as ok/2.png"


def test_images_of_no_layout_are_unlabelled_and_must_be_asked_for(tmp_path: Path) -> None:
    tree(tmp_path, "1.png", "ok/2.png", "a/b/3.jpg", ".hidden/4.png", "a/movie.avi", "notes.txt")
    (tmp_path / "table.csv").write_text("path,split,label\n1.png,test,ng\n")
    found = look(tmp_path, "images")
    assert shown(found) == [
        (image_id, "unlabelled", "unknown", "", None) for image_id in ("1.png", "a/b/3.jpg", "ok/2.png")
    ]
    assert [(reject.path, reject.reason) for reject in found.rejects] == [("a/movie.avi", "not_an_image")]
    assert look(tmp_path).layout == "csv"
