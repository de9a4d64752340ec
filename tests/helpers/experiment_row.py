"""One row of the experiments with every kind of cell: quotes, letters beyond ASCII, empty cells, long numbers."""

from optimizer.experiments.optimisation_steps.step_row import StepRow

ROW = StepRow(
    version="1", dataset='a "b", ü', layer=3, setting="all", experts=9, slots=12, moe_op="optimized", method="greedy",
    policy="even-source", capacity_factor=None, seed=0, limit=2.5, moves=None, batches=5, tokens=7, digest="0f",
    imbalance_p50=1.1, imbalance_p99=0.1 + 0.2, tiles=3, latency_us=5, latency_p50_us=4, latency_p99_us=6,
    rerouted=None, over_capacity=None, gate_weight_kept=None, selection_us=5, selection_rerouted=0, bound_us=4,
    bound_p50_us=3, bound_p99_us=5, gap=0.25, seconds=1e-7,
)  # fmt: skip
