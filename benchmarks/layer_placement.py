"""How close placements of the expected load come to proven bounds, on 16x8 devices of 3 slots.

Usage: python benchmarks/layer_placement.py [--seconds 1] [--seed 0] [--given-counts] [--json]. All 58 layers of the
built-in DeepSeek-V3 trace are placed one after the other, each on one core. Where replica counts are chosen with the
placement, the bound is the mean load of a device. With --given-counts the replica counts of greedy replication, with
one replica of the shared expert in each row, are placed too, and the bound holds for these counts. Making the trace
takes half a minute.
"""

import json
import time
from collections.abc import Callable

import click
import numpy as np

from formulations.expected_load.joint_placement import JointInstance, place_in_steps, place_jointly
from formulations.expected_load.layer_placement import LayerInstance, place_replicas
from formulations.expected_load.replication import ReplicaBudget, counts_for_loads
from formulations.kit.arrays import Bools, Ints
from formulations.kit.solver import Limits
from optimizer.domain.mesh import Mesh
from optimizer.domain.model import Model
from optimizer.domain.placement import Placement
from optimizer.domain.presets import load_model
from optimizer.traces.synthetic.generator import builtin_trace

MESH = Mesh(16, 8, 3)
QUICK = (5_000, 20_000)  # steps of the quick placements, which take some milliseconds
PROVEN = 1e-3  # the gap to the bound within which layers are counted

Row = dict[str, float | str]


def load_of(model: Model, layer: int, seed: int) -> Ints:
    """The pairs of each expert over the whole trace, `[expert]`; the shared one, which is last, serves all tokens."""
    experts = builtin_trace(model, [layer], seed).experts
    return np.append(np.bincount(experts.ravel(), minlength=model.routed_experts), len(experts))


def greedy_counts(load: Ints, spread: Bools) -> Ints:
    """Replica counts `[expert]`: one in each row for spread experts, and the best counts for all others."""
    counts = np.full(len(load), MESH.rows)
    routed = load[~spread]
    slots = MESH.slots - MESH.rows * int(spread.sum())
    counts[~spread] = counts_for_loads(routed, ReplicaBudget.of(len(routed), slots, MESH.devices)).value
    return counts


def gap(layer: JointInstance, slots: Ints) -> float:
    """The gap of a placement, peak / bound - 1, computed anew. Raises AssertionError for an invalid placement."""
    faults = Placement(slots).violations(len(layer.load), MESH.devices, MESH.slots_per_device)
    held = slots.reshape(MESH.rows, -1)
    faults += [f"row without expert {e}" for e in np.flatnonzero(layer.spread) if not (held == e).any(axis=1).all()]
    if faults:
        raise AssertionError("; ".join(faults))
    return float(layer.peak(slots) / layer.bound - 1)


def timed(run: Callable[[], Ints]) -> tuple[Ints, float]:
    """The result of a run, and the seconds that it took."""
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started


def measure(load: Ints, spread: Bools, seconds: float, given: bool) -> Row:
    """The gaps and times of one layer; every run starts from the load alone."""
    row: Row = {}

    def fresh() -> JointInstance:
        return JointInstance(load, spread, MESH.rows, MESH.cols, MESH.slots_per_device)

    for steps in QUICK:
        slots, took = timed(lambda steps=steps: place_in_steps(fresh(), steps, np.random.default_rng(0)))  # type: ignore[misc]
        row |= {f"gap_{steps}": gap(fresh(), slots), f"ms_{steps}": 1e3 * took}
    joint = place_jointly(fresh(), None, Limits(seconds))
    assert joint.value is not None
    row |= {"gap": gap(fresh(), joint.value), "seconds": joint.runtime}
    if given:
        counts = greedy_counts(load, spread)
        outcome = place_replicas(
            LayerInstance(load, counts, spread, MESH.rows, MESH.cols, MESH.slots_per_device), None, Limits(10)
        )
        row |= {"given_gap": outcome.gap, "given_seconds": outcome.runtime, "given_status": str(outcome.status)}
    return row


def summary(rows: list[Row]) -> Row:
    """The mean and the worst of each gap and each time, and how many layers are within PROVEN for each gap."""
    found: Row = {}
    for name in rows[0]:
        if name in ("layer", "given_status"):
            continue
        values = np.array([float(row[name]) for row in rows])
        found |= {f"{name}_mean": float(values.mean()), f"{name}_worst": float(values.max())}
        if "gap" in name:
            found[f"{name}_within"] = int((values <= PROVEN).sum())
    return found


def print_table(rows: list[Row], total: Row) -> None:
    """Print the rows of all layers, and the summary."""
    print("".join(f"{name:>15}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:15.5f}" if isinstance(value, float) else f"{value:>15}" for value in row.values()))
    print(f"\n{len(rows)} layers; within: layers with a gap of {PROVEN:.1%} or less")
    for name, value in total.items():
        print(f"{name:24}{value:12.5g}")


@click.command()
@click.option("--seconds", default=1.0, help="seconds for choosing counts and placement of a layer together")
@click.option("--seed", default=0, help="seed of the trace")
@click.option("--given-counts", is_flag=True, help="place greedy counts too, up to 10 s a layer")
@click.option("--json", "as_json", is_flag=True)
def main(seconds: float, seed: int, given_counts: bool, as_json: bool) -> None:
    """Measure all layers and print their gaps and times."""
    model = load_model("deepseek-v3")
    layers = range(model.first_moe_layer, model.layers)
    spread = np.arange(model.experts) >= model.routed_experts
    loads = [load_of(model, layer, seed) for layer in layers]
    measure(loads[0], spread, 0.1, given_counts)  # compiles
    rows: list[Row] = []
    for layer, load in zip(layers, loads, strict=True):
        rows.append({"layer": layer} | measure(load, spread, seconds, given_counts))
    total = summary(rows)
    if as_json:
        print(json.dumps({"layers": rows, "summary": total}, indent=1))
    else:
        print_table(rows, total)


if __name__ == "__main__":
    main()
