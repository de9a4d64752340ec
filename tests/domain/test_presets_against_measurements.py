"""The presets against published measurements."""

import numpy as np
import published
import pytest
from random_problems import WORMHOLE, cost

from optimizer.domain.cost import Cost
from optimizer.domain.presets import load_hardware


@pytest.fixture(scope="module")
def table() -> list[published.Cell]:
    return published.cells()


def test_the_compute_examples_are_met_exactly() -> None:
    for loads, microseconds in published.EXAMPLES.items():
        assert cost().compute_us(np.array([[loads]])).tolist() == [microseconds]


def test_the_stated_link_fits_come_out(table: list[published.Cell]) -> None:
    """Stated: 20.7 us and 27.9 GB/s for the corners; 25.0, 34.8 and RMSE 11.3 for all cells."""
    base, speed, _ = published.fit_link([table[index] for index in published.CORNERS], 14336)
    assert base == pytest.approx(20.7, rel=0.02)
    assert speed == pytest.approx(27.9, rel=0.02)
    base, speed, error = published.fit_link(table, 14336)
    assert base == pytest.approx(25.0, rel=0.01)
    assert speed == pytest.approx(34.8, rel=0.01)
    assert error == pytest.approx(11.3, abs=0.05)


def test_the_link_preset_is_near_the_corners(table: list[published.Cell]) -> None:
    """4.5 us RMSE there; 17.6 over all cells, most of it where two to five experts lie on the farthest rows."""
    corners = [table[index] for index in published.CORNERS]
    assert published.rmse(published.link_us(corners, cost()), published.measured_us(corners)) < 4.6
    assert published.rmse(published.link_us(table, cost()), published.measured_us(table)) < 17.7


def test_the_table_preset_is_the_best_fit_and_within_the_stated_error(table: list[published.Cell]) -> None:
    best, error = published.fit_table(table)
    preset = load_hardware(WORMHOLE).table
    assert preset is not None
    assert [preset.base_us, preset.per_expert_us, preset.per_hop_us] == pytest.approx(best, abs=0.05)
    assert error < 8.8
    assert published.rmse(published.table_us(table, cost()), published.measured_us(table)) < 8.8 < 10.3


def test_expert_parallel_times_are_near_those_of_deepep() -> None:
    """Within 2.4 % with 16 to 64 ranks; worst is combine with 8, 14.3 % too long."""
    ours = published.expert_parallel_us(Cost("h800", load_hardware("h800")))
    error = np.array([ours[name] / line - 1 for name, line in published.DEEPEP.items()])
    assert np.abs(error[:, 1:4]).max() < 0.024
    assert np.abs(error).max() == error[1, 0] == pytest.approx(0.143, abs=0.001)


@pytest.mark.parametrize(
    ("targets", "climbing", "descending"),
    [
        ([0], [], []),
        ([1, 2], [2, 2], []),
        ([15, 13], [], [2, 2, 2]),
        ([8], [1] * 8, [1] * 8),
        ([8, 7], [2] * 7 + [1], [1] * 8),
        ([3, 8, 14], [2] * 3 + [1] * 5, [2] * 2 + [1] * 6),
    ],
)
def test_packets_pass_the_edges_to_their_farthest_target(
    targets: list[int], climbing: list[int], descending: list[int]
) -> None:
    """All tokens of row 5; edges that climb are numbered by the row they leave, and so are those that descend."""
    away = np.zeros((1, 512, len(targets)), dtype=int)
    away[0, 5 * 32 : 6 * 32] = targets
    expected = np.zeros((2, 16), dtype=int)
    expected[0, [(5 + place) % 16 for place in range(len(climbing))]] = climbing
    expected[1, [(5 - place) % 16 for place in range(len(descending))]] = descending
    assert published.ring_halves(away).tolist() == [(32 * expected).reshape(32).tolist()]


@pytest.mark.parametrize("ranks", published.RANKS)
def test_ranks_send_and_receive_all_but_what_stays(ranks: int) -> None:
    halves, remote = published.port_halves(ranks)
    node = min(ranks, published.NODE)
    near, far = 1024 * (node - 1) // ranks, 1024 * (ranks - node) // ranks
    assert halves.tolist() == [[2 * near] * 2 * ranks + [2 * far] * 2 * ranks]
    assert remote.tolist() == [False] * 2 * ranks + [True] * 2 * ranks
