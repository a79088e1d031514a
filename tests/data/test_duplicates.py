from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.data.inspection.duplicates import NEAR, find_groups, standardise
from raybench.data.inspection.properties import FINGERPRINT, Properties


def line(prints: npt.NDArray[np.float64], pixels: list[str] | None = None) -> Properties:
    count = len(prints)
    table = pd.DataFrame(
        {
            "image_id": [f"{at:05}" for at in range(count)],
            "split": ["train", "test"] * (count // 2) + ["train"] * (count % 2),
            "label": "ok",
            "pixels": pixels or [str(at) for at in range(count)],
            "height": 10,
            "width": 10,
            "colours": "grey",
        }
    )
    return Properties(table, prints.astype(np.float32))


def random_prints(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Few directions hold most of the spread, as in real lines."""
    return np.random.default_rng(seed).normal(0, 200 / np.arange(1, FINGERPRINT + 1), (count, FINGERPRINT))


def by_all_pairs(prints: npt.NDArray[np.float32]) -> set[frozenset[str]]:
    """The oracle: every pair is compared, and pairs that share an image are joined."""
    points = standardise(prints)
    groups = [{at} for at in range(len(points))]
    for left in range(len(points)):
        for right in range(left):
            if np.linalg.norm(points[left] - points[right]) <= NEAR and groups[left] is not groups[right]:
                groups[left] |= groups[right]
                for member in groups[left]:
                    groups[member] = groups[left]
    return {frozenset(f"{at:05}" for at in group) for group in groups if len(group) > 1}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(0, 12), st.floats(0.1, 6))
def test_every_pair_that_is_near_is_found(seed: int, count: int, copies: int, noise: float) -> None:
    prints = random_prints(count, seed)
    rng = np.random.default_rng(seed)
    again = prints[rng.integers(0, count, copies)] + rng.normal(0, noise, (copies, FINGERPRINT))
    found = line(np.concatenate([prints, again]))
    groups = {frozenset(copy.image_id for copy in group.copies) for group in find_groups(found)}
    assert groups == by_all_pairs(found.fingerprints)


def test_exact_copies_are_exact_and_join_what_is_near() -> None:
    prints = random_prints(50, 1)
    prints[10], prints[20] = prints[11], prints[21]
    prints[30] = prints[11] + 0.01
    pixels = [str(at) for at in range(50)]
    pixels[10], pixels[20] = pixels[11], pixels[21]
    first, second = find_groups(line(prints, pixels))
    assert [copy.image_id for copy in first.copies] == ["00010", "00011", "00030"]
    assert (first.kind, second.kind, second.distance) == ("near", "exact", 0.0)
    assert 0 < first.distance < NEAR
    assert second.splits == ("test", "train")
    assert [copy.image_id for copy in second.of("test")] == ["00021"]


def test_the_same_digest_of_another_size_is_another_image() -> None:
    found = line(random_prints(40, 2), ["same", "same", *map(str, range(38))])
    found.table.loc[0, ["height", "width"]] = [5, 20]
    assert find_groups(found) == ()


def test_a_line_of_nothing_but_copies_is_one_group() -> None:
    """More copies of an image than neighbours are asked for."""
    rng = np.random.default_rng(3)
    prints = np.concatenate([random_prints(200, 3), np.zeros((100, FINGERPRINT)) + rng.normal(0, 0.01, (100, 1))])
    groups = find_groups(line(prints))
    assert sorted(len(group.copies) for group in groups)[-1] == 100


def test_images_are_taken_in_pieces() -> None:
    prints = random_prints(60, 4)
    prints[59] = prints[0] + 0.01
    whole = find_groups(line(prints))
    assert find_groups(line(prints), chunk=7) == whole
    assert [[copy.image_id for copy in group.copies] for group in whole] == [["00000", "00059"]]


def test_one_image_has_no_copy() -> None:
    assert find_groups(line(random_prints(1, 5))) == ()
