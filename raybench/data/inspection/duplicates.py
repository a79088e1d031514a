"""Images that a line holds more than once: the same pixels, or one shot saved twice.

On a production line every part looks like every other, and a perceptual hash calls many of them the same. Here two
images are *near duplicates* when their fingerprints lie much closer together than those of any two images of this line
do; docs/data-quality.md has the measurements. No matrix of pairs: a tree over 16 numbers an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from raybench.data.inspection.properties import Floats, Properties

NEAR = 0.08
_AXES = 16
_NEIGHBOURS = 8
_CHUNK = 100_000
_IQR_SIGMAS = 1.349  # of a normal distribution
_LEAST_SPREAD = 1.0

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copy:
    image_id: str
    split: str
    label: str


@dataclass(frozen=True)
class Group:
    """Copies of one image. kind: `exact` when all have the same pixels. distance: the longest step that links them, in
    units of the distance of two random images of the line; 0 for exact ones."""

    kind: Literal["exact", "near"]
    distance: float
    copies: tuple[Copy, ...]

    def of(self, split: str) -> tuple[Copy, ...]:
        return tuple(copy for copy in self.copies if copy.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({copy.split for copy in self.copies}))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({copy.label for copy in self.copies}))


def find_groups(found: Properties, chunk: int = _CHUNK) -> tuple[Group, ...]:
    """Every image that is there more than once, in one group with its copies; sorted by the first image's id."""
    digests = found.table.groupby(["pixels", "height", "width", "colours"], sort=False).ngroup().to_numpy(np.int64)
    _, firsts, exact = np.unique(digests, return_index=True, return_inverse=True)
    left, right, distance = _near_pairs(standardised(found.fingerprints)[firsts], chunk)
    links = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(firsts), len(firsts)))
    _, cluster = connected_components(links, directed=False)
    longest = np.zeros(len(firsts))
    np.maximum.at(longest, cluster[left], distance)
    groups = _groups(found.table, cluster[exact], exact, longest)
    return tuple(sorted(groups, key=lambda group: group.copies[0].image_id))


def _groups(table: pd.DataFrame, cluster: Indices, exact: Indices, longest: Doubles) -> Iterator[Group]:
    """cluster, exact: (N,) number of each image's group, and of its pixels."""
    shared = np.flatnonzero(np.bincount(cluster)[cluster] > 1)
    order = shared[np.argsort(cluster[shared], kind="stable")]
    for at in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1) if len(order) else ():
        rows = table.iloc[at][["image_id", "split", "label"]].itertuples(index=False)
        copies = tuple(sorted((Copy(*row) for row in rows), key=lambda copy: copy.image_id))
        kind: Literal["exact", "near"] = "exact" if len(set(exact[at].tolist())) == 1 else "near"
        yield Group(kind, round(float(longest[cluster[at[0]]]), 4), copies)


def standardised(fingerprints: Floats) -> Floats:
    """Each number less the line's median, over its spread (quartiles, so that copies and outliers do not count), such
    that two random images of the line lie about 1 apart."""
    low, middle, high = np.percentile(fingerprints, (25, 50, 75), axis=0)
    spread = np.maximum((high - low) / _IQR_SIGMAS, _LEAST_SPREAD) * np.sqrt(2 * fingerprints.shape[1])
    return np.asarray((fingerprints - middle) / spread, np.float32)


def _near_pairs(points: Floats, chunk: int) -> tuple[Indices, Indices, Doubles]:
    """Pairs of points at most NEAR apart, each point with its few nearest, and their distances.

    The tree knows the principal axes with most of the spread only: it finds every such pair, and some others.
    """
    centred = points - points.mean(0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    reduced = (centred @ axes[:, ::-1][:, :_AXES]).astype(np.float64)
    order = cKDTree(reduced).indices  # points that are neighbours in memory too are found ten times as fast
    tree = cKDTree(reduced[order])
    lefts, rights, distances = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(points), chunk):
        part = order[start : start + chunk]
        _, found = tree.query(reduced[part], k=_NEIGHBOURS + 1, distance_upper_bound=NEAR * 1.001)
        at, nth = np.nonzero(found < len(points))
        left, right = part[at], order[found[at, nth]]
        apart = np.linalg.norm(points[left] - points[right], axis=1).astype(np.float64)
        kept = (left != right) & (apart <= NEAR)
        lefts.append(left[kept])
        rights.append(right[kept])
        distances.append(apart[kept])
    return np.concatenate(lefts), np.concatenate(rights), np.concatenate(distances)
