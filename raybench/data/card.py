"""The dataset card of a packed line: `<line>/README.md`, beside its shards.

Its YAML header is what Hugging Face `datasets` reads, so that the folder of a line is a data set with its splits.
"""

from __future__ import annotations

from collections import Counter

import yaml

from raybench.data.manifest import STATE_DIGITS, Manifest
from raybench.store import Store

CARD = "README.md"
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""The hub's words for numbers of images, by the number that they end below."""


def card_key(line: str) -> str:
    return f"{line}/{CARD}"


def write_card(lines: Store, manifest: Manifest) -> None:
    """Write the card of a line. It is written before the manifest, which is always last."""
    lines.put(card_key(manifest.line), line_card(manifest).encode())


def line_card(manifest: Manifest) -> str:
    """Return the dataset card of a line as Markdown with a YAML header."""
    images = sum(manifest.counts.values())
    header = {
        "pretty_name": manifest.line,
        "task_categories": ["image-classification", *(["image-segmentation"] if manifest.masks else [])],
        "tags": ["anomaly-detection", "visual-inspection", "raybench"],
        "size_categories": [next((size for end, size in SIZES.items() if images < end), "n>1M")],
        "configs": [{"config_name": "default", "data_files": _data_files(manifest)}],
    }
    counts = [f"| {name.replace('/', ' | ')} | {count:,} |" for name, count in sorted(manifest.counts.items())]
    notes = "\n".join(f"- {note}" for note in _notes(manifest))
    table = "\n".join(["| split | label | images |", "|---|---|---:|", *counts])
    return (
        f"{card_header(header)}\n# {manifest.line}\n\n"
        "Images of a product line, packed by raybench: OK images to train an unsupervised anomaly detector on, and "
        f"images to score.\n\n{table}\n\n{notes}\n"
    )


def card_header(fields: object) -> str:
    """Return fields as the YAML header of a card, its fences included."""
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _data_files(manifest: Manifest) -> list[dict[str, object]]:
    files: dict[str, list[str]] = {}
    for shard in manifest.shards:
        files.setdefault(shard.split, []).append(shard.key.removeprefix(f"{manifest.line}/"))
    return [{"split": split, "path": names} for split, names in files.items()]


def _notes(manifest: Manifest) -> list[str]:
    """Describe the images, and what the shards alone do not tell."""
    sides = [(manifest.min_height, manifest.min_width), (manifest.max_height, manifest.max_width)]
    sizes = " to ".join(f"{height}×{width}" for height, width in dict.fromkeys(sides))
    notes = [f"Sizes (height × width, pixels): {sizes}.", f"Masks: {manifest.masks:,} images have one."]
    if manifest.white_level > 255:
        notes.append(f"16 bits: black is {manifest.black_level}, white {manifest.white_level}.")
    if manifest.roi:
        notes.append(
            f"Region of interest: {manifest.roi.images:,} images have one; {manifest.roi.kept:.0%} of their pixels are "
            "looked at."
        )
    if manifest.attributes:
        notes.append(f"Further columns of the packed table: {', '.join(map(_code, manifest.attributes))}.")
    if reasons := Counter(reject.reason for reject in manifest.rejects):
        listed = ", ".join(f"{count} {_code(reason)}" for reason, count in sorted(reasons.items()))
        notes.append(f"Files that are not used: {listed}; `manifest.json` names each.")
    if corrected := sum(shard.labels.rows for shard in manifest.shards if shard.labels):
        notes.append(
            f"**Labels or masks of {corrected:,} images came back after packing.** They lie in `labels/` and count in "
            "the table above; the shards alone have the labels of the packing."
        )
    notes.append(
        f"State {_code(manifest.digest[:STATE_DIGITS])}; layout {_code(manifest.layout)}. Licence: not stated."
    )
    return notes


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"
