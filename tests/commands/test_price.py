"""Every latency holds the price of its routing, which a user can set, and which a plan keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from running_commands import fault, run, solve

from optimizer.domain.presets import load_hardware
from optimizer.planning.plan_file import read_plan
from optimizer.routing.policies import INFORMATION, POLICIES

pytestmark = pytest.mark.usefixtures("few_batches")


def figures(plan: Path, traces: Path, *more: object) -> dict[str, Any]:
    """The figures of `simulate --json` for layer 1."""
    result = run("simulate", plan, traces, *more, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["layers"]["1"]
    return found


def test_each_policy_has_the_price_of_what_it_must_know(traces: Path) -> None:
    """The price is in the latency, statistic by statistic, as it is the same for all batches."""
    plan, _ = solve(traces, "--routing", "even-source")
    found = figures(plan, traces, "--routing", "all")["policies"]
    price = load_hardware("tt-wormhole-quad-galaxy").routing
    assert (price.none_us, price.own_us, price.hint_us, price.batch_us) == (0, 0, 0, 100)
    assert set(found) == set(INFORMATION) == set(POLICIES)
    for policy, of in found.items():
        expected = getattr(price, f"{INFORMATION[policy]}_us")
        assert set(of["routing_us"].values()) == {expected}
        assert set(of["routing_us"]) == set(of["latency_us"])
        parts = sum(of[f"{stage}_us"]["mean"] for stage in ("routing", "dispatch", "compute", "combine"))
        assert of["latency_us"]["mean"] == pytest.approx(parts)


def test_a_price_is_set_by_name_and_others_stay(traces: Path) -> None:
    plan, _ = solve(traces, "--routing", "even-source")
    asked = ("--routing", "optimal,least-loaded")
    usual, cheap = (figures(plan, traces, *asked, *more)["policies"] for more in ((), ("--price", "optimal=40")))
    assert [cheap[name]["routing_us"]["p99"] for name in ("optimal", "least-loaded")] == [40, 100]
    assert cheap["optimal"]["latency_us"]["p99"] == pytest.approx(usual["optimal"]["latency_us"]["p99"] - 60)
    assert cheap["least-loaded"]["latency_us"] == usual["least-loaded"]["latency_us"]


def test_a_plan_keeps_its_price_and_is_judged_with_it(traces: Path) -> None:
    plan, result = solve(traces, "--routing", "optimal", "--price", "optimal=12.5", "--json")
    assert read_plan(plan).prices == {"optimal": 12.5}
    assert json.loads(result.stdout)["rows"][-1]["routing_us"]["mean"] == 12.5
    assert figures(plan, traces)["routing_us"]["max"] == 12.5
    assert figures(plan, traces, "--price", "optimal=3")["routing_us"]["max"] == 3


def test_a_policy_is_chosen_with_its_price_and_it_is_said_below_which_price_it_pays(traces: Path) -> None:
    """Where the price that is said is paid, the policy and the best of the others are equally fast in p99."""
    asked = ("--routing", "even-source,optimal", "--iterations", 300)
    _, dear = solve(traces, *asked, "--price", "optimal=100000")
    said = next(line for line in dear.stdout.splitlines() if line.startswith("optimal holds every batch up"))
    worth = float(said.split("below ")[1].split(" us")[0])
    _, priced = solve(traces, *asked, "--price", f"optimal={worth}", "--json")
    last = {row["routing"]: row for row in json.loads(priced.stdout)["rows"] if row["method"] == "search"}
    assert last["optimal"]["latency_us"]["p99"] == pytest.approx(last["even-source"]["latency_us"]["p99"], abs=0.1)
    plan, _ = solve(traces, *asked, "--price", "optimal=100000")
    assert read_plan(plan).policy == "even-source"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimal", "'optimal' is not POLICY=US; write it like optimal=40"),
        ("optimal=dear", "'optimal=dear' is not POLICY=US"),
        ("optimal=-1", "the price of optimal must be 0 or more"),
        ("best=3", "--price: 'best' is not a known policy"),
        ("even=3", "'even' is two policies now"),
    ],
)
def test_a_price_that_is_none_is_refused_in_one_line(traces: Path, text: str, said: str) -> None:
    assert said in fault(run("solve", traces, "--layer", 1, "--price", text))
