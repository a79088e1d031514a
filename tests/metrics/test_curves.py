from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from raybench.metrics import curves
from raybench.metrics.image import Ranked


@given(ok=st.integers(1, 12), ng=st.integers(1, 12), seed=st.integers(0, 999), ties=st.integers(1, 30))
def test_weighted_images_agree_with_scikit_learn(ok: int, ng: int, seed: int, ties: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, ties, ok + ng).astype(float)
    weights = rng.gamma(0.8, size=(3, ok + ng)) + 1e-6
    truth = np.arange(ok + ng) >= ok
    found = Ranked(scores[:ok], scores[ok:]).all(weights[:, :ok], weights[:, ok:])
    for row, (auroc, ap, f1) in zip(weights, found.T, strict=True):
        assert auroc == pytest.approx(roc_auc_score(truth, scores, sample_weight=row), abs=1e-9)
        assert ap == pytest.approx(average_precision_score(truth, scores, sample_weight=row), abs=1e-9)
        precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=row)
        harmonic = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert f1 == pytest.approx(harmonic.max(), abs=1e-9)


@given(
    ok=st.integers(1, 12),
    ng=st.integers(1, 12),
    seed=st.integers(0, 999),
    ties=st.integers(1, 30),
    rate=st.sampled_from([0.01, 0.05, 0.2, 0.45]),
)
def test_the_rate_at_a_false_alarm_rate_is_read_off_the_roc_curve(
    ok: int, ng: int, seed: int, ties: int, rate: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, ties, ok + ng).astype(float)
    weights = rng.gamma(2.0, size=(2, ok + ng)) + 1e-3
    truth = np.arange(ok + ng) >= ok
    auroc, found = Ranked(scores[:ok], scores[ok:]).auroc_and_recall(weights[:, :ok], weights[:, ok:], rate)
    for row, area, recall in zip(weights, auroc, found, strict=True):
        false, true, _ = roc_curve(truth, scores, sample_weight=row, drop_intermediate=False)
        last = np.flatnonzero(false <= rate)[-1]  # of several points at one rate, the highest counts
        slope = (true[last + 1] - true[last]) / (false[last + 1] - false[last])
        assert recall == pytest.approx(true[last] + (rate - false[last]) * slope, abs=1e-6)
        assert area == pytest.approx(roc_auc_score(truth, scores, sample_weight=row), abs=1e-9)


def test_by_hand() -> None:
    normal, anomalous = np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert float(curves.true_rate(normal, anomalous, 0.125)) == pytest.approx(0.75)  # half of the second step
    assert float(curves.true_rate(normal, anomalous, 0.25)) == pytest.approx(1.0)
    assert float(curves.auroc(normal, anomalous)) == pytest.approx((1 * 4 + 1 * 3.5) / 8)
