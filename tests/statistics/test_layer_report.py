"""The reports on counts, explicit batches and the built-in trace equal what a few lines of numpy find."""

from pathlib import Path

import numpy as np
import pytest
from random_problems import random_batches

from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.errors import InputError
from optimizer.statistics.inspect_traces import inspect_traces
from optimizer.statistics.layer_report import report_of_batches
from optimizer.traces.infer import ModelChoice
from optimizer.traces.source import TraceInput

HOME = Mesh(16, 8, 3)


def test_figures_of_the_real_counts_equal_plain_numpy(real_traces: Path) -> None:
    path = real_traces / "glm-5.2" / "expert_counts.npz"
    (report,), *_ = inspect_traces(TraceInput(traces=[str(path)]), ModelChoice(), [12], HOME, lambda share: None)
    with np.load(path) as archive:
        counts, domains = archive["counts"][:, :, 12 - 3].astype(float), archive["domains"].tolist()
    total = counts.sum(axis=(0, 1))
    ordered = np.sort(total)
    pairwise_gaps = np.abs(total[:, None] - total[None]).sum() / (2 * 256**2 * total.mean())
    assert report.figures.gini == pytest.approx(pairwise_gaps)
    assert report.figures.hottest == pytest.approx(total.max() / total.mean())
    assert report.figures.top_share == pytest.approx(ordered[-32:].sum() / total.sum())
    shares = counts.sum(axis=1) / counts.sum(axis=(1, 2))[:, None]
    assert report.datasets == tuple(domains)
    assert report.figures.dataset_drift[0, 3] == pytest.approx(np.abs(shares[0] - shares[3]).sum() / 2)
    steps = counts.reshape(-1, 256)
    assert report.figures.load is not None
    assert report.figures.load.p95 == pytest.approx(np.quantile(steps, 0.95, axis=0))
    assert report.figures.load.covariance == pytest.approx(np.cov(steps.T, bias=True))
    devices = steps.reshape(64, 128, 2).sum(axis=2)  # two experts in order on each of 128 devices
    assert report.imbalance == pytest.approx(devices.max(axis=1) / devices.mean(axis=1))
    assert report.pairs is None


def test_figures_of_explicit_batches_equal_plain_counting(rng: np.random.Generator) -> None:
    model = Model("m", 12, 1, 3)
    batches = random_batches(rng, 20, 30, model, 2)
    report = report_of_batches(batches, model, 7, Mesh(2, 2, 4))
    tokens = [set(token[:3].tolist()) for batch in batches.experts for token in batch]
    assert report.pairs is not None
    assert report.lift is not None
    for x, y in ((0, 1), (3, 9)):
        both = sum(x in token and y in token for token in tokens)
        assert report.pairs[x, y] == both
        alone = sum(x in token for token in tokens) * sum(y in token for token in tokens)
        assert report.lift[x, y] == pytest.approx(both * 600 / alone)
    assert report.load.shape == (20, 12)
    assert np.isnan(report.figures.overlap)


def test_the_builtin_trace_has_no_list_of_layers() -> None:
    reports, notes, *_ = inspect_traces(TraceInput(), ModelChoice(), [12, 13], HOME, lambda share: None)
    assert [report.layer for report in reports] == [12, 13]
    assert "built-in trace" in notes[0]
    with pytest.raises(InputError, match="name the layers") as caught:
        inspect_traces(TraceInput(), ModelChoice(), None, HOME, lambda share: None)
    assert caught.value.field == "layers"
