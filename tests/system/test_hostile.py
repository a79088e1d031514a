"""Hostile input, case by case, with what each gives; docs/hostile-input.md shows the same table and is held to it.

`python -m tests.test_hostile` prints the tables anew.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from raybench.config.experiment import Experiment, parse_experiment
from raybench.data.checks import check_image, fit_mask
from raybench.data.decode import decode_image, decode_mask
from raybench.data.layouts import list_images
from raybench.data.manifest import Manifest, read_manifest
from raybench.data.pack import pack
from raybench.data.shards import read_rows
from raybench.errors import ExperimentError, IntegrityError, LineError, ObjectMissing, RaybenchError, RejectedImage
from raybench.runs.run import RunStore
from raybench.runs.scores import ScoreRow, read_scores, write_scores
from raybench.store import Store, open_store

DOC = Path(__file__).parents[2] / "docs" / "hostile-input.md"
PIXELS: npt.NDArray[np.uint8] = np.full((24, 40, 3), (10, 120, 240), np.uint8)
PICTURE = Image.fromarray(PIXELS)


def saved(picture: Image.Image, form: str, **settings: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, form, **settings)
    return sink.getvalue()


def encoded(suffix: str, pixels: npt.NDArray[Any]) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose every checksum is right."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def oriented(form: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return saved(PICTURE, form, **({"tiffinfo": {274: 6}} if form == "TIFF" else {"exif": exif}))


def flipped(data: bytes, at: float) -> bytes:
    place = int(at * len(data))
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


TURNED = PICTURE.rotate(180)
GREY16 = (PIXELS[..., 0].astype(np.uint16) + 7) * 100
ALPHA = np.full((24, 40), 65535, np.uint16)
IMAGES: dict[str, bytes] = {
    "no bytes": b"",
    "text named .png": b"no image at all",
    "JPEG named .png": saved(PICTURE, "JPEG"),
    "GIF, WebP or other formats under a name of ours": saved(PICTURE, "GIF"),
    "PNG cut in half": saved(PICTURE, "PNG")[:60],
    "JPEG cut in half": saved(PICTURE, "JPEG")[:-60],
    "BMP cut in half": saved(PICTURE, "BMP")[:1400],
    "TIFF cut in half": saved(PICTURE, "TIFF")[:1400],
    "PNG, one bit of its pixels flipped": flipped(saved(PICTURE, "PNG"), 0.5),
    "PNG without its end": saved(PICTURE, "PNG")[:-12],
    "PNG of 60,000×60,000 in its header, 60 bytes": png(60_000, 60_000, b""),
    "PNG of 20,000×20,000 in its header": png(20_000, 20_000, b""),
    "PNG of 0×10": png(0, 10, b""),
    "BMP of 20,000×20,000 in its header": saved(PICTURE, "BMP")[:18]
    + struct.pack("<ii", 20_000, 20_000)
    + saved(PICTURE, "BMP")[26:],
    "PNG of 1×1": saved(PICTURE.resize((1, 1)), "PNG"),
    "JPEG of 1×1": saved(PICTURE.resize((1, 1)), "JPEG"),
    "PNG of 1×20,000": saved(PICTURE.resize((20_000, 1)), "PNG"),
    "grey, palette and 1-bit PNG": saved(PICTURE.convert("P"), "PNG"),
    "PNG with alpha": saved(PICTURE.convert("RGBA"), "PNG"),
    "CMYK JPEG": saved(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "CMYK TIFF": saved(PICTURE.convert("CMYK"), "TIFF"),
    "progressive JPEG": saved(PICTURE, "JPEG", progressive=True),
    "16-bit grey PNG": encoded(".png", GREY16),
    "16-bit colour PNG with alpha": encoded(".png", np.dstack([GREY16, GREY16, GREY16, ALPHA])),
    "16-bit colour TIFF": encoded(".tiff", np.dstack([GREY16] * 3)),
    "32-bit float TIFF": saved(PICTURE.convert("F"), "TIFF"),
    "TIFF with a compression OpenCV lacks (zstd)": saved(PICTURE, "TIFF", compression="zstd"),
    "JPEG, EXIF says turn right": oriented("JPEG"),
    "PNG, EXIF says turn right": oriented("PNG"),
    "TIFF, its orientation says turn right": oriented("TIFF"),
    "animated PNG": saved(PICTURE, "PNG", save_all=True, append_images=[TURNED]),
    "TIFF of two pages": saved(PICTURE, "TIFF", save_all=True, append_images=[TURNED]),
    "JPEG with a preview behind it (MPO)": saved(PICTURE, "MPO", save_all=True, append_images=[TURNED]),
    "PNG, checksums right, pixel data short": png(40, 24, b"\0" * 100),
}


def image_gives(data: bytes) -> str:
    try:
        facts = check_image(data)
    except RejectedImage as error:
        return f"rejected: {error.reason}"
    try:
        pixels = decode_image(data, 255 if facts.highest is None else 2 ** facts.highest.bit_length() - 1)
    except RejectedImage as error:
        return f"packed; the unit that reads it fails, naming it: {error.reason}"
    assert pixels.shape == (facts.height, facts.width, 3)
    depth = "" if facts.highest is None else f", highest value {facts.highest}"
    return f"packed, {facts.height}×{facts.width}{depth}"


def table(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a.png").write_bytes(saved(PICTURE, "PNG"))
        (folder / "t.csv").write_bytes(text.encode(errors="surrogateescape"))

    return write


def named(name: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        target = os.path.join(os.fsencode(folder), b"ok", os.fsencode(name))  # noqa: PTH118
        (folder / "ok").mkdir()
        Path(os.fsdecode(target)).write_bytes(saved(PICTURE, "PNG"))

    return write


def linked(target: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "ok").mkdir()
        (folder / "ok" / "a.png").symlink_to(target)

    return write


def piped(folder: Path) -> None:
    (folder / "ok").mkdir()
    os.mkfifo(folder / "ok" / "a.png")


ROW = "path,split,label\n{}\n"
FOLDERS: dict[str, Callable[[Path], None]] = {
    "CSV path `../../etc/passwd`": table(ROW.format("../../etc/passwd,train,ok")),
    "CSV path `/etc/passwd`": table(ROW.format("/etc/passwd,train,ok")),
    "CSV path `C:\\x.png`": table(ROW.format("C:\\x.png,train,ok")),
    "CSV path with a line break, in quotes": table(ROW.format('"a\n.png",train,ok')),
    "CSV path of 4 KB": table(ROW.format("x" * 4096 + ",train,ok")),
    "CSV cell of 1 MB": table(ROW.format("x" * 2**20 + ",train,ok")),
    "CSV path with a NUL": table(ROW.format("a\0.png,train,ok")),
    "CSV comma that is not quoted": table(ROW.format("a.png,train,ok,b")),
    "CSV quote left open": table(ROW.format('"a.png,train,ok')),
    "CSV column twice": table("path,path,split,label\na.png,b.png,train,ok\n"),
    "CSV path twice": table(ROW.format("a.png,train,ok\na.png,train,ok")),
    "CSV path twice, as OK and as NG": table(ROW.format("a.png,train,ok\na.png,test,ng")),
    "CSV that is not UTF-8": table(ROW.format("\udcff.png,train,ok")),
    "CSV defect type with an escape sequence": table("path,split,label,defect_type\na.png,test,ng,\x1b[31mred\n"),
    "CSV group with an escape sequence": table("path,split,label,group\na.png,test,ng,\x1b[31mred\n"),
    "CSV without rows": table("path,split,label\n"),
    "file name `日本語 ü.png`": named("日本語 ü.png"),
    "file name with a line break": named("a\nb.png"),
    "file name with an escape sequence": named("a\x1b[31m.png"),
    "file name that is not UTF-8": named(b"\xff\xfe.png"),
    "file name `..png`": named("..png"),
    "file name of 255 bytes": named("x" * 251 + ".png"),
    "link to /etc/passwd": linked("/etc/passwd"),
    "link to /dev/zero": linked("/dev/zero"),
    "link to nowhere": linked("nowhere.png"),
    "named pipe": piped,
}


def folder_gives(write: Callable[[Path], None]) -> str:
    with tempfile.TemporaryDirectory() as name:
        images, lines = Path(name, "images"), open_store(str(Path(name, "lines")))
        images.mkdir()
        write(images)
        try:
            found = list_images(open_store(str(images)))
            manifest = pack(open_store(str(images)), lines, "line")
        except RaybenchError as error:
            text = str(error).replace(images.as_uri(), "FOLDER").splitlines()[0]
            only = text.partition("; rejected: 1 ")[2]
            return f"rejected: {only}" if only else f"error: {text}"
        rejects = ", ".join(sorted({reject.reason for reject in manifest.rejects}))
        assert all(len(reject.path.splitlines()) == 1 for reject in (*found.rejects, *manifest.rejects))
        return f"{sum(manifest.counts.values())} packed" + (f"; rejected: {rejects}" if rejects else "")


GOOD = "name: n\nstore: /x\nlines: [a]\nmodels: [fake]\n"
LAUGHS = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(9))
EXPERIMENTS: dict[str, str] = {
    "empty": "",
    "tabs": "name:\ta\n\tstore: x",
    "a Python object": "name: !!python/object/apply:os.system [id]",
    "a scalar that is not of its tag": "name: !!timestamp soon",
    "a date that does not exist": "name: 2026-99-99",
    "aliases of aliases of aliases (a billion laughs)": LAUGHS,
    "an alias that holds itself": GOOD + "storage: &s {region: *s}",
    "5,000 brackets": "[" * 5000,
    "a key twice": GOOD + "name: m\n",
    "a key that is a list": "? [a]\n: b",
    "a NUL": "name: a\0b",
    "a lone surrogate": GOOD + 'weights: "\\ud800"',
    "infinity": GOOD + "train_budget_s: .inf",
    "not a number": GOOD + "held_out: .nan",
    "a seed of 5,000 digits": GOOD + f"seeds: [{'9' * 5000}]",
    "a date among a model's settings": GOOD.replace("[fake]", "[{name: fake, config: {at: 2026-01-01}}]"),
    "name `../../x`": GOOD.replace("name: n", "name: ../../x"),
    "two documents": GOOD + "---\n" + GOOD,
}


def experiment_gives(text: str) -> str:
    try:
        parse_experiment(text)
    except ExperimentError as error:
        return f"error: {error.problems[0].splitlines()[0][:140]}"
    return "accepted"


def some_line(folder: Path) -> tuple[Store, Manifest]:
    images = folder / "images" / "ok"
    images.mkdir(parents=True)
    for number in range(3):
        (images / f"{number}.png").write_bytes(saved(PICTURE, "PNG"))
    lines = open_store(str(folder / "lines"))
    return lines, pack(open_store(str(images.parent)), lines, "line")


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Store, str], None]:
    return lambda lines, key: lines.put(key, change(lines.get(key)))


def by_pandas(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Store, str], None]:
    def write(lines: Store, key: str) -> None:
        sink = io.BytesIO()
        change(pd.read_parquet(io.BytesIO(lines.get(key)))).to_parquet(sink)
        lines.put(key, sink.getvalue())

    return write


SHARDS: dict[str, Callable[[Store, str], None]] = {
    "one bit flipped in an image": with_bytes(lambda data: flipped(data, 0.1)),
    "one bit flipped in the footer": with_bytes(lambda data: flipped(data, 0.9)),
    "one bit flipped in the footer's length": with_bytes(lambda data: data[:-6] + b"\x7f" + data[-5:]),
    "cut in half": with_bytes(lambda data: data[: len(data) // 2]),
    "empty": with_bytes(lambda data: b""),
    "the same rows, written by pandas": by_pandas(lambda table: table),
    "a column missing": by_pandas(lambda table: table.drop(columns="label")),
    "a column of another type": by_pandas(lambda table: table.assign(height=table["height"].astype(str))),
    "a row removed": by_pandas(lambda table: table.iloc[1:]),
    "gone": lambda lines, key: lines.delete(key),
}
MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "not JSON": lambda data: b"\xff{",
    "cut in half": lambda data: data[: len(data) // 2],
    "nested 10,000 deep": lambda data: b"[" * 10_000,
    "a key missing": lambda data: data.replace(b'"white_level"', b'"white"'),
    "a shard outside its line": lambda data: data.replace(b"line/train-00000", b"../../etc/pass-0"),
    "copied from another line": lambda data: data.replace(b'"line": "line"', b'"line": "other"'),
    "a white level of 0": lambda data: data.replace(b'"white_level": 255', b'"white_level": 0'),
    "a count that is not the shards'": lambda data: data.replace(b'"train/ok": 3', b'"train/ok": 4'),
    "of another schema version": lambda data: data.replace(b'"schema_version": 4', b'"schema_version": 3'),
}


def stored_gives(change: Callable[[Store, str], None], *, manifest: bool) -> str:
    with tempfile.TemporaryDirectory() as name:
        lines, packed = some_line(Path(name))
        shard = packed.shards[0]
        before = list(read_rows(lines, shard))
        change(lines, "line/manifest.json" if manifest else shard.key)
        try:
            read_manifest(lines, "line")
            after = list(read_rows(lines, shard))
        except RaybenchError as error:
            text = str(error).replace(lines.uri(), "LINES").replace(name, "").splitlines()[0]
            return f"{type(error).__name__}: {text[:140]}"
        assert after == before
        return "read; the same rows"


URIS = {
    "`s3://`": "s3://",
    "`s3://user:secret@bucket/x`": "s3://user:secret@bucket/x",
    "`s3://bucket/x?y`": "s3://bucket/x?y",
    "`s3://[::1`": "s3://[::1",
    "`file://host/x`": "file://host/x",
    "`foo://x`": "foo://x",
    "a NUL": "/x\0",
    "a line break": "s3://bucket/a\nb",
    "a path of 5,000 characters": "/" + "x" * 5000,
}


def uri_gives(uri: str) -> str:
    try:
        open_store(uri).exists("k")
    except RaybenchError as error:
        assert "secret" not in str(error)
        return f"{type(error).__name__}: {str(error)[-110:]}"
    return "accepted"


def tables() -> dict[str, dict[str, str]]:
    """Section → case → what it gives."""
    return {
        "Image files": {name: image_gives(data) for name, data in IMAGES.items()},
        "Folders, file names and CSV tables": {name: folder_gives(write) for name, write in FOLDERS.items()},
        "Experiment files": {name: experiment_gives(text) for name, text in EXPERIMENTS.items()},
        "Image shards in the store": {name: stored_gives(change, manifest=False) for name, change in SHARDS.items()},
        "Line manifests in the store": {
            name: stored_gives(with_bytes(change), manifest=True) for name, change in MANIFESTS.items()
        },
        "Store URIs": {name: uri_gives(uri) for name, uri in URIS.items()},
    }


def markdown(found: dict[str, dict[str, str]]) -> str:
    sections = []
    for title, cases in found.items():
        rows = "\n".join(f"| {name} | {gives} |" for name, gives in cases.items())
        sections.append(f"## {title}\n\n| input | gives |\n|---|---|\n{rows}\n")
    return "\n".join(sections)


def test_the_document_shows_what_each_gives() -> None:
    text = DOC.read_text(encoding="utf-8")
    rows = [line for line in markdown(tables()).splitlines() if line not in text.splitlines()]
    assert not rows, "docs/hostile-input.md is not what is: python -m tests.test_hostile"


MUTATED = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
SEEDS = tuple(data for data in IMAGES.values() if len(data) > 100)
changes = st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=0, max_size=6), st.integers(0, 6)), max_size=6)


def changed(data: bytes, at: list[tuple[float, bytes, int]]) -> bytes:
    """Bytes put in at some places, for as many removed."""
    for share, new, removed in at:
        place = int(share * len(data))
        data = data[:place] + new + data[place + removed :]
    return data


@given(st.sampled_from(SEEDS), changes)
@MUTATED
def test_a_changed_image_is_an_image_or_a_reject(seed: bytes, at: list[tuple[float, bytes, int]]) -> None:
    data = changed(seed, at)
    try:
        facts = check_image(data)
        mask = decode_mask(fit_mask(data, facts).data, facts.height, facts.width)
        pixels = decode_image(data)
    except RejectedImage as error:
        assert error.detail
    else:
        assert pixels.shape[:2] == mask.shape == (facts.height, facts.width)


def experiment_or_error(text: str) -> None:
    try:
        found = parse_experiment(text)
    except ExperimentError as error:
        assert error.problems
    else:
        assert len(found.digest) == 64
        assert parse_experiment(found.to_yaml()) == found


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.sampled_from([*Experiment.model_fields, "unknown"]), values, max_size=4))
@MUTATED
def test_an_experiment_of_any_values_is_one_or_an_error(sections: dict[str, Any]) -> None:
    experiment_or_error(yaml.safe_dump(yaml.safe_load(GOOD) | sections))


@given(values)
@MUTATED
def test_a_model_with_settings_of_any_values_is_one_or_an_error(value: Any) -> None:
    models = [{"name": "fake", "config": {"a": value}}]
    experiment_or_error(yaml.safe_dump(yaml.safe_load(GOOD) | {"models": models}))


@given(changes)
@MUTATED
def test_a_changed_experiment_file_is_one_or_an_error(at: list[tuple[float, bytes, int]]) -> None:
    experiment_or_error(changed((GOOD + LAUGHS).encode(), at).decode(errors="surrogateescape"))


@given(st.text(max_size=60))
@MUTATED
def test_any_text_is_no_experiment(text: str) -> None:
    with pytest.raises(ExperimentError):
        parse_experiment(text)


@given(st.binary(max_size=200) | changes.map(lambda at: changed(b"a.png,train,ok\n'b','test',ng,\n" * 3, at)))
@MUTATED
def test_any_table_gives_images_rejects_or_an_error(tmp_path: Path, body: bytes) -> None:
    table("")(tmp_path)
    (tmp_path / "t.csv").write_bytes(b"path,split,label\n" + body)
    try:
        found = list_images(open_store(str(tmp_path)), "csv")
    except LineError as error:
        assert "t.csv" in str(error)
    else:
        assert {item.image_id for item in found.items} <= {"a.png"}
        assert all(reject.reason and reject.detail for reject in found.rejects)


@given(st.binary(min_size=1, max_size=100))
@settings(max_examples=60, deadline=None)
def test_any_file_name_is_packed_or_rejected(name: bytes) -> None:
    clean = name.replace(b"/", b"").replace(b"\0", b"")
    gives = folder_gives(named(b"x" + clean + b".png"))
    assert gives in ("1 packed", "rejected: bad_name")


@given(changes)
@MUTATED
def test_a_changed_manifest_is_one_or_an_error(
    a_line: tuple[Store, Manifest], at: list[tuple[float, bytes, int]]
) -> None:
    lines, _ = a_line
    before = lines.get("line/manifest.json")
    lines.put("line/manifest.json", changed(before, at))
    try:
        list(read_rows(lines, read_manifest(lines, "line").shards[0]))
    except (LineError, IntegrityError, ObjectMissing) as error:
        assert str(error)
    finally:
        lines.put("line/manifest.json", before)


@pytest.fixture(scope="session")
def a_line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    return some_line(tmp_path_factory.mktemp("line"))


SCORES = write_scores(
    [ScoreRow(f"{n}", "l", "m", "d", 0.5, True, np.full((4, 6), n, np.float32), 8, 12) for n in range(20)],
    fit="native",
)


@given(changes.filter(bool))
@MUTATED
def test_a_changed_scores_shard_is_never_parsed(tmp_path: Path, at: list[tuple[float, bytes, int]]) -> None:
    run = RunStore(open_store(str(tmp_path)), "night")
    blob = run.put_blob("unit", "scores", SCORES)
    run.store.put(blob.key, changed(SCORES, at))
    if run.store.get(blob.key) == SCORES:
        assert len(read_scores(run.get_blob(blob))) == 20
    else:
        with pytest.raises(IntegrityError):
            run.get_blob(blob)


@pytest.mark.parametrize("change", ["drop", "type", "rows"])
def test_a_scores_shard_of_another_writer_is_refused(change: str) -> None:
    table = pd.read_parquet(io.BytesIO(SCORES))
    table = {
        "drop": table.drop(columns="score"),
        "type": table.assign(score=table["score"].astype(str)),
        "rows": table,
    }[change]
    sink = io.BytesIO()
    table.to_parquet(sink)
    with pytest.raises(IntegrityError, match="columns"):
        read_scores(sink.getvalue())


if __name__ == "__main__":
    sys.stdout.write(markdown(tables()))
