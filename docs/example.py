"""Trace arrays in, placement out; simulated, and compared with EPLB. Run it: python docs/example.py"""

import numpy as np

from optimizer import Hardware, Mesh, Model, SolveOptions, compare, open_traces, plan_layer, simulate

# 60 requests of a model with 16 experts, of which each token uses two: [token, layer, top_k] arrays, as servers record
# them. The first experts are the most popular ones.
rng = np.random.default_rng(0)
popularity = np.linspace(3.0, 0.5, 16)
requests = [
    np.argsort(popularity + rng.gumbel(size=(64, 1, 16)), axis=2)[:, :, -2:]  # two distinct experts for each token
    for _ in range(60)
]
traces = open_traces(requests, batch_tokens=64)
model = Model("example", routed_experts=16, shared_experts=0, top_k=2)
hardware = Hardware.of(mesh=Mesh(rows=2, cols=4, slots_per_device=3))  # 24 slots, of which a plan may leave some empty

options = SolveOptions(time_limit=20, iterations=1000, routings=("even-source", "optimal"))
found = plan_layer(traces, 0, model, hardware, options, progress=lambda stage, share: None)
print(found)  # in a notebook the name alone, `found`, shows tables and pictures
print("Experts of the first device:", found.placement.slots[0].tolist())

judged = simulate(found.plan, traces)
(figure,) = judged.figures()  # plotly's: `figure.show()`, `figure.write_html("latency.html")`
print(f"Picture: {figure.layout.title.text}")
print(f"p99 latency under {found.plan.policy} routing: {np.percentile(judged.report.latency_us, 99):.1f} us")

for row in compare(traces, 0, model, hardware, options).comparison.rows:
    if row.planned.name in ("EPLB", "moeplan"):
        p99 = np.percentile(row.report.latency_us, 99)
        print(f"{row.planned.name}, {row.report.routing} routing in {row.report.unit}: p99 {p99:.1f} us")
