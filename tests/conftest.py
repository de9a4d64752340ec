"""Small problems drawn at random, and the real traces where they are present."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # tests import their oracles and builders by name

from random_problems import request_experts, write_request

settings.register_profile("moeplan", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("moeplan")

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_traces() -> Path:
    """The folder of real routing data, which the project does not ship."""
    if not REAL.is_dir():
        pytest.skip("the real routing traces (shared/data beside the checkout) are absent")
    return REAL


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def traces(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with twelve small requests."""
    for number in range(12):
        write_request(tmp_path / "traces" / f"r{number}.npz", request_experts(rng, 20, 3, 8, 2))
    return tmp_path / "traces"
