"""What tables, pages and sentences call a figure, by its name in JSON: one word for one thing, with its unit."""

NAMES = {
    "latency_us": "latency, us",
    "routing_us": "routing, us",
    "dispatch_us": "dispatch, us",
    "compute_us": "compute, us",
    "combine_us": "combine, us",
    "imbalance": "imbalance",
    "expected_imbalance": "expected imbalance",
    "tiles": "tiles",
    "active": "active experts",
    "hops": "hops per token",
    "hops_per_token": "hops per token",
    "copies_per_token": "copies per token",
    "moved_per_token": "moved per token",
    "rows_per_token": "mesh rows per token",
    "cols_per_token": "mesh columns per token",
}
"""The words by the JSON keys. What they mean stands in docs/glossary.md."""


def name_of(figure: str, statistic: str = "") -> str:
    """The words for a figure, or for a statistic of it over batches, such as "latency p99, us"."""
    words, comma, unit = NAMES.get(figure, figure.replace("_", " ")).partition(",")
    return f"{words} {statistic}".rstrip() + comma + unit
