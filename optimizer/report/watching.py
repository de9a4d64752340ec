"""What a watch says: a line of JSON for each decision, and its figures as a text file for Prometheus."""

from datetime import UTC, datetime
from typing import Any

from optimizer.planning.choose_for_datasets import EXPECTED
from optimizer.planning.rebalancing.plan import RebalancedPlan
from optimizer.planning.watching.watcher import Look

METRICS = {
    "last_look_timestamp_seconds": ("gauge", "When the folder was last looked at."),
    "files_total": ("counter", "Files of which requests were counted."),
    "bad_files_total": ("counter", "Files in which something could not be used."),
    "requests_total": ("counter", "Requests that were counted."),
    "unseen_requests": ("gauge", "Requests since the last decision."),
    "plans_written_total": ("counter", "Decisions by which a new plan was written."),
    "plans_left_total": ("counter", "Decisions by which the plan in force was left."),
    "failures_total": ("counter", "Looks that failed."),
    "moves_total": ("counter", "Expert weights that the plans written made devices load."),
    "gain_ratio": ("gauge", "The share of the mean latency that the last decision's moves save on unseen requests."),
    "gain_low_ratio": ("gauge", "The lower end of the 95 % interval of that share."),
    "gain_high_ratio": ("gauge", "The upper end of that interval."),
    "drift_ratio": ("gauge", "Total variation between recent loads and the plan's, mean over layers."),
    "drift_by_chance_ratio": ("gauge", "The same between two halves of the recent requests."),
}
"""The metrics by their names, which `moeplan_watch_` precedes: their type, and what they are."""


def as_json(look: Look) -> dict[str, Any]:
    """What was decided and why, in its stable JSON form. Gains and drift are shares, not per cent."""
    figures: dict[str, Any] = {
        "time": datetime.fromtimestamp(look.now, UTC).isoformat(timespec="seconds"),
        "decision": look.decision,
        "why": look.why or None,
        "counted": look.kind,
        "files": look.files,
        "requests": look.requests,
        "bad": look.bad,
        "vanished": look.vanished,
        "looks_wrong": look.wrong[0] if look.wrong else None,
        "unseen": look.unseen,
        "planned_on": look.planned,
        "tested_on": look.tested,
        "drift": _drift(look),
    }
    return figures | _decision(look)


def _drift(look: Look) -> dict[str, Any] | None:
    """The drift over all layers and in the worst one; None where it is not known."""
    if look.drift is None:
        return None
    drift, worst = look.drift.drift, look.drift.worst
    return {
        "mean": float(drift.mean()),
        "worst": float(drift[worst]),
        "worst_layer": look.layers[worst],
        "by_chance": float(look.drift.by_chance.mean()),
    }


def _decision(look: Look) -> dict[str, Any]:
    """What rebalancing came to; nothing where there was none."""
    if look.found is None:
        return {}
    asked, found = look.found.asked, look.found
    return {
        "gain": asked.gain._asdict(),
        **_judged(look.found),
        "moves": found.moves,
        "moves_considered": asked.moves,
        "bytes": None if found.expert_bytes is None else found.moves * found.expert_bytes,
        "rounds": sum(len(chunk.rounds) for chunk in found.chunks),
    }


def _judged(found: RebalancedPlan) -> dict[str, Any]:
    """What the plan was judged by, before and after, and on how many batches, or steps of counts."""
    before, after = float(found.asked.before.mean()), float(found.asked.after.mean())
    if found.measure == EXPECTED:
        layers = len(found.asked.layers)
        figures = {"before": before / layers, "after": after / layers}
        return {"expected_imbalance": figures, "test_steps": len(found.asked.after)}
    return {"latency_us": {"before": before, "after": after}, "test_batches": len(found.asked.after)}


def metrics(look: Look) -> str:
    """The text of the file for Prometheus' textfile collector. A figure that is not known is left out."""
    totals, drift = look.totals, look.drift
    values: dict[str, float | None] = {
        "last_look_timestamp_seconds": look.now,
        "files_total": totals.files,
        "bad_files_total": totals.bad_files,
        "requests_total": totals.requests,
        "unseen_requests": look.unseen,
        "plans_written_total": totals.written,
        "plans_left_total": totals.left,
        "failures_total": totals.failed,
        "moves_total": totals.moves,
        "drift_ratio": None if drift is None else float(drift.drift.mean()),
        "drift_by_chance_ratio": None if drift is None else float(drift.by_chance.mean()),
    }
    if (gain := look.gain) is not None:
        values |= {"gain_ratio": gain.mean, "gain_low_ratio": gain.low, "gain_high_ratio": gain.high}
    return "".join(_metric(name, value) for name in METRICS if (value := values.get(name)) is not None)


def _metric(name: str, value: float) -> str:
    """The three lines of a metric."""
    kind, meaning = METRICS[name]
    full = f"moeplan_watch_{name}"
    return f"# HELP {full} {meaning}\n# TYPE {full} {kind}\n{full} {value!r}\n"
