"""Find duplicate images of a line: exact copies of pixels, and near duplicates, as one photo saved in two formats.

On a production line all parts look alike, and a perceptual hash matches many of them. Here two images are *near
duplicates* if their fingerprints are much closer than those of two different images of the line;
docs/data-quality.md has the measurements. A tree over 16 numbers per image replaces the matrix of all pairs.
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

NEAR = 0.08  # distance of near duplicates at most; two random images of a line are about 1 apart
_AXES = 16
_NEIGHBOURS = 8
_CHUNK = 100_000
_IQR_SIGMAS = 1.349  # interquartile range of a normal distribution in standard deviations
_LEAST_SPREAD = 1.0

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copy:
    """One image of a group of duplicates."""

    image_id: str
    split: str
    label: str


@dataclass(frozen=True)
class Group:
    """Duplicates of one image."""

    kind: Literal["exact", "near"]
    """`exact` if all copies have the same pixels."""
    distance: float
    """Greatest distance between linked copies. Two random images of the line are about 1 apart. 0 for exact copies."""
    copies: tuple[Copy, ...]
    """Sorted by image ID."""

    def of(self, split: str) -> tuple[Copy, ...]:
        """Return the copies in `split`."""
        return tuple(copy for copy in self.copies if copy.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({copy.split for copy in self.copies}))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({copy.label for copy in self.copies}))


def find_groups(properties: Properties, chunk: int = _CHUNK) -> tuple[Group, ...]:
    """Group all duplicates of a line. Images that are linked by a chain of near duplicates share a group.

    Args:
        properties: Of all images of the line.
        chunk: Images per query of the tree, which bounds memory.

    Returns:
        Groups of at least two images, sorted by the ID of their first image.
    """
    digests = properties.table.groupby(["pixels", "height", "width", "colours"], sort=False).ngroup().to_numpy(np.int64)
    _, firsts, exact = np.unique(digests, return_index=True, return_inverse=True)
    left, right, distance = _near_pairs(standardise(properties.fingerprints)[firsts], chunk)
    links = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(firsts), len(firsts)))
    _, cluster = connected_components(links, directed=False)
    longest = np.zeros(len(firsts))
    np.maximum.at(longest, cluster[left], distance)
    groups = _groups(properties.table, cluster[exact], exact, longest)
    return tuple(sorted(groups, key=lambda group: group.copies[0].image_id))


def _groups(table: pd.DataFrame, cluster: Indices, exact: Indices, longest: Doubles) -> Iterator[Group]:
    """Build the groups from (N,) cluster numbers and (N,) numbers that exact copies share."""
    shared = np.flatnonzero(np.bincount(cluster)[cluster] > 1)
    order = shared[np.argsort(cluster[shared], kind="stable")]
    for members in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1) if len(order) else ():
        rows = table.iloc[members][["image_id", "split", "label"]].itertuples(index=False)
        copies = tuple(sorted((Copy(*row) for row in rows), key=lambda copy: copy.image_id))
        kind: Literal["exact", "near"] = "exact" if len(set(exact[members].tolist())) == 1 else "near"
        yield Group(kind, round(float(longest[cluster[members[0]]]), 4), copies)


def standardise(fingerprints: Floats) -> Floats:
    """Scale fingerprints so that two random images of the line are about 1 apart.

    Each number is centred at the line's median and divided by its spread. The spread is taken from quartiles, so that
    copies and outliers hardly change it.

    Args:
        fingerprints: (N, K) float32.

    Returns:
        (N, K) float32.
    """
    low, middle, high = np.percentile(fingerprints, (25, 50, 75), axis=0)
    spread = np.maximum((high - low) / _IQR_SIGMAS, _LEAST_SPREAD) * np.sqrt(2 * fingerprints.shape[1])
    return np.asarray((fingerprints - middle) / spread, np.float32)


def _near_pairs(points: Floats, chunk: int) -> tuple[Indices, Indices, Doubles]:
    """Find pairs of points at most NEAR apart, among each point's nearest neighbours.

    The tree holds only the principal axes of the largest spread. Distances there are at most those between the points,
    so it misses no pair; pairs that are farther apart are dropped.

    Returns:
        (P,) indices of the first points, (P,) of the second, and (P,) distances.
    """
    centred = points - points.mean(0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    reduced = (centred @ axes[:, ::-1][:, :_AXES]).astype(np.float64)
    order = cKDTree(reduced).indices  # queries are ten times as fast if neighbours are adjacent in memory
    tree = cKDTree(reduced[order])
    lefts, rights, distances = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(points), chunk):
        part = order[start : start + chunk]
        _, neighbours = tree.query(reduced[part], k=_NEIGHBOURS + 1, distance_upper_bound=NEAR * 1.001)
        row, column = np.nonzero(neighbours < len(points))  # cKDTree pads with the number of points
        left, right = part[row], order[neighbours[row, column]]
        distance = np.linalg.norm(points[left] - points[right], axis=1).astype(np.float64)
        kept = (left != right) & (distance <= NEAR)
        lefts.append(left[kept])
        rights.append(right[kept])
        distances.append(distance[kept])
    return np.concatenate(lefts), np.concatenate(rights), np.concatenate(distances)
