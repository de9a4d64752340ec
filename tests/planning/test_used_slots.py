"""How many slots of each device a plan uses: as few as are faster, and all where somebody else has decided on that."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_problems import cost, random_batches, random_placement, small_problem

from optimizer.domain.cost import Cost
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import EMPTY
from optimizer.domain.presets import load_hardware
from optimizer.domain.problem import MoveBudget, Problem
from optimizer.planning.many_layers.layer import LayerTask, plan_layer, survey_layer
from optimizer.planning.many_layers.settings import Settings
from optimizer.planning.options import SolveOptions
from optimizer.planning.plan_layer import solve
from optimizer.planning.pool import LayerJudge
from optimizer.planning.used_slots import UsedSlots, used_slots
from optimizer.report.verdict import Verdict
from optimizer.routing.policies import POLICIES
from optimizer.routing.servers.abilities import RULES_OF_SERVERS
from optimizer.search.choose import WITHOUT_P99, figures
from optimizer.search.seeds.flexibility import flexibility
from optimizer.search.seeds.greedy import greedy
from optimizer.search.seeds.risk import risk
from optimizer.search.stop import Deadline
from optimizer.simulation.conditions import Conditions
from optimizer.simulation.simulator import simulate
from optimizer.traces.batches import Sets

OPTIONS = SolveOptions(60, 0, 500, routings=("even-source", "near-source"))


def drawn(tokens: int, seed: int = 11, slots: int = 4) -> tuple[Problem, Sets]:
    """A layer of 14 experts and a shared one on eight devices of this many slots."""
    return small_problem(seed, rows=4, cols=2, slots=slots, routed=14, top_k=4, tokens=tokens)


def used_by(tokens: int, options: SolveOptions = OPTIONS, seed: int = 11) -> UsedSlots:
    problem, sets = drawn(tokens, seed)
    return used_slots(problem, sets, options, options.effort())


@pytest.mark.parametrize(("tokens", "slots"), [(40, 2), (70, 2), (2000, 4)])
def test_few_tokens_need_few_slots_and_many_need_all(tokens: int, slots: int) -> None:
    used = used_by(tokens)
    assert used.problem.mesh.slots_per_device == slots
    assert used.some_are_empty == (slots < 4) == (len(used.says) == 1)
    assert all(said.startswith(f"Each device uses {slots} of its 4 slots: ") for said in used.says)


@pytest.mark.parametrize("tokens", [40, 90, 160, 300, 2000])
def test_the_number_has_the_least_latency_of_all_numbers(tokens: int) -> None:
    """Worked out anew: every construction in every number of slots under every policy."""
    problem, sets = drawn(tokens, seed=tokens)
    least = {}
    for number in (2, 3, 4):
        shared = min(4, 8 * number - 14)  # one for each row, or as many as there is room for
        narrow = replace(problem, mesh=replace(problem.mesh, slots_per_device=number), shared_replicas=shared)
        latencies = [
            figures(simulate(seed(narrow), sets.selection, narrow.model, narrow.mesh, narrow.cost, Conditions(policy)))
            for seed in (risk, flexibility)
            for policy in OPTIONS.routings
        ]
        least[number] = min(float(each[WITHOUT_P99].mean()) for each in latencies)
    used = used_by(tokens, seed=tokens)
    assert least[used.problem.mesh.slots_per_device] == min(least.values())


def test_all_slots_are_used_where_that_is_decided() -> None:
    problem, sets = drawn(40)
    held = greedy(problem)
    h100 = Cost("h100", load_hardware("h100"))
    for changed in (
        replace(problem, extra_replicas=14),  # beyond 14 and four of the shared expert, in 32 slots
        replace(problem, start=held),
        replace(problem, budget=MoveBudget(held, 3)),
        replace(problem, cost=h100),
        drawn(40, slots=2)[0],
    ):
        assert used_slots(changed, sets, OPTIONS, OPTIONS.effort()).problem is changed
    for policy in ("vllm", "sglang-dynamic", "tensorrt-llm"):
        of_server = replace(OPTIONS, routings=(policy,))
        assert not used_slots(problem, sets, of_server, of_server.effort()).some_are_empty
    limited, _ = small_problem(11, rows=4, cols=2, slots=4, routed=14, top_k=4, tokens=40, extra=6)
    assert used_slots(limited, sets, OPTIONS, OPTIONS.effort()).problem.mesh.slots_per_device == 3
    interrupted = OPTIONS.effort()
    interrupted.cancel.ask()
    assert not used_slots(problem, sets, OPTIONS, interrupted).some_are_empty


@given(
    st.integers(0, 10**6),
    st.integers(1, 20),
    st.integers(0, 2),
    st.integers(4, 5),
    st.sampled_from([None, 1, "auto"]),
)
def test_experts_fit_from_the_least_number_of_slots_on(
    seed: int, routed: int, shared: int, slots: int, replicas: int | str | None
) -> None:
    sizes = {"rows": 3, "cols": 2, "slots": slots, "routed": routed, "shared": shared, "top_k": 1, "tokens": 4}
    problem, _ = small_problem(seed, replicas=replicas if shared else None, **sizes)
    least = problem.least_slots
    assert 6 * (least - 1) < problem.model.experts
    for number in range(least, slots):
        narrow = problem.on_slots(number)
        assert narrow.violations(greedy(narrow)) == []


@pytest.mark.parametrize("policy", sorted({*POLICIES} - RULES_OF_SERVERS))
def test_empty_slots_behind_the_others_change_no_figure(policy: str) -> None:
    problem, sets = drawn(70)
    narrow = problem.on_slots(3)
    placement = random_placement(np.random.default_rng(3), narrow.model.experts, narrow.mesh)
    alone, behind = LayerJudge(narrow, sets, Conditions(policy)), LayerJudge(problem, sets, Conditions(policy))
    found, other = alone.test(placement), behind.test(placement.with_slots(4))
    assert found.latency_us.tolist() == other.latency_us.tolist()
    assert found.summary() == other.summary()


def test_a_plan_leaves_slots_empty_and_is_compared_with_greedy_in_all() -> None:
    problem, sets = drawn(40)
    solution = solve(problem, sets, OPTIONS)
    first, chosen = solution.rows[0], solution.chosen
    assert (first.method, first.placement.slots.tolist()) == ("greedy", greedy(problem).slots.tolist())
    assert {row.method for row in solution.rows[1:]} >= {"greedy, 2 slots", "risk, 2 slots", "formulation, 2 slots"}
    for row in solution.rows[1:]:
        assert problem.violations(row.placement) == []
        assert (row.placement.slots[:, 2:] == EMPTY).all()
        again = LayerJudge(problem, sets, Conditions(row.report.routing)).test(row.placement)
        assert row.report.network == again.network
        assert row.report.latency_us.tolist() == again.latency_us.tolist()
    assert chosen.report.latency_us.mean() < 0.85 * first.report.latency_us.mean()
    assert f"below EPLB's scheme (greedy, {first.report.routing})" in Verdict.of(solution).sentence()
    assert any(said.startswith("Each device uses 2 of its 4 slots") for said in solution.remarks)
    assert all(gap.any_placement.mean <= gap.reached * (1 + 1e-9) for gap in solution.gaps)


def test_each_number_of_slots_is_told_as_progress() -> None:
    problem, sets = drawn(40)
    told: list[tuple[str, float]] = []
    used_slots(problem, sets, OPTIONS, OPTIONS.effort(), lambda stage, share: told.append((stage, share)))
    assert told == [("numbers of slots", number / 3) for number in range(3)]


def test_layers_of_a_model_leave_slots_empty_too() -> None:
    model, mesh = Model("drawn", 8, 0, 2), Mesh(2, 2, 3)
    options = SolveOptions(60, 0, 100, routings=("even-source",))
    sets = Sets(*(random_batches(np.random.default_rng(turn), 8, 24, model, 2) for turn in range(3)))
    task = LayerTask(Settings(model, mesh, cost(), options), 5, sets, {"origin": "drawn"})
    surveyed, planned = survey_layer(task)["even-source"], plan_layer(task, Deadline(60))
    assert planned is not None
    for part in (surveyed, planned):
        assert part.placement.violations(8, 4, 3) == []
        assert (part.placement.slots == EMPTY).sum() == 4
    report = LayerJudge(task.problem(), sets, Conditions("even-source")).test(planned.placement)
    assert planned.quality["latency_us"]["mean"] == pytest.approx(report.latency_us.mean())
