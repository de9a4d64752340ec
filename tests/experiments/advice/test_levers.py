"""Which step is named first: the cheapest that gains nearly as much as the best, or none."""

import numpy as np
import pytest
from random_problems import WORMHOLE

from formulations.kit.arrays import Floats
from optimizer.domain.mesh import Mesh
from optimizer.domain.network import Network
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_hardware
from optimizer.experiments.advice.levers import WORTH, Kind, Lever, at_a_price, beyond, sufficient
from optimizer.simulation.report import SimulationReport


def report_of(latency: Floats) -> SimulationReport:
    """A report with this latency, all of which is compute."""
    nothing, none = np.zeros(len(latency)), np.zeros((len(latency), 4), dtype=np.int64)
    network = Network.of(Mesh(1, 2, 2), load_hardware(WORMHOLE).network)
    loads = np.ones((len(latency), 2), dtype=np.int64)
    return SimulationReport(
        "vllm", 8, network, "link", "tokens", "optimized", "barrier", nothing, nothing, latency, nothing, loads, loads,
        loads,
        np.zeros((len(latency), 5), dtype=np.int64), loads, none, np.zeros(4, dtype=np.int64),
        np.zeros(4, dtype=np.int64),
    )  # fmt: skip


NOW = np.random.default_rng(0).normal(100, 5, 256)


def lever(kind: Kind, gain: float, noise: float = 0.0, runs: bool = True) -> Lever:
    chance = np.random.default_rng(1).normal(0, noise, len(NOW))
    after = NOW * (1 - gain) + chance - chance.mean()
    placement = Placement(np.array([[0, 1], [0, 2]]))
    return Lever(kind, 1, 2, "vllm", runs, placement, report_of(after), report_of(NOW))


def test_a_cheap_step_suffices_where_it_gains_nearly_as_much() -> None:
    steps = [lever("placement", 0.17), lever("redundant experts", 0.2), lever("optimal routing", 0.4, runs=False)]
    assert sufficient(steps) is steps[0]
    assert beyond(steps) is steps[2]


def test_a_dearer_step_is_named_where_the_cheap_one_gains_too_little() -> None:
    steps = [lever("placement", 0.1), lever("redundant experts", 0.2)]
    assert sufficient(steps) is steps[1]


@pytest.mark.parametrize(
    "step",
    [
        lever("placement", WORTH / 2),
        lever("placement", WORTH * 1.5, noise=100),
        lever("placement", -0.1),
        lever("hints", 0.3, runs=False),
        lever("capacity", 0.3),
    ],
    ids=["too little", "not sure", "a loss", "not released", "other experts"],
)
def test_no_step_is_named_that_is_not_worth_it(step: Lever) -> None:
    assert sufficient([step]) is None
    assert (beyond([step]) is step) == (not step.runs)


def test_what_the_server_does_not_run_is_named_only_where_it_gains_more() -> None:
    assert beyond([lever("placement", 0.2), lever("hints", 0.15, runs=False)]) is None
    assert beyond([lever("placement", 0.2), lever("capacity", 0.3, runs=False)]) is None


def test_a_capacity_is_named_on_its_own_where_it_gains_most() -> None:
    steps = [lever("placement", 0.2), lever("capacity", 0.3, runs=False)]
    assert sufficient(steps) is steps[0]
    assert at_a_price(steps) is steps[1]
    assert at_a_price([lever("placement", 0.2), lever("capacity", 0.1)]) is None


def test_the_price_of_routing_is_in_the_gain() -> None:
    report = report_of(NOW * 0.9)
    report.routing_us[:] = 20.0
    assert report.latency_us.mean() > NOW.mean()
