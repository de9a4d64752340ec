"""One word for one thing: what tables call a figure follows from its key in JSON, and the glossary has it."""

from pathlib import Path

from optimizer.planning import bounds
from optimizer.report.figure_names import NAMES, name_of
from optimizer.simulation.report import FIGURES, PER_TOKEN

GLOSSARY = Path(__file__).resolve().parents[2] / "docs" / "glossary.md"


def test_every_figure_of_the_simulator_and_every_bound_has_a_name() -> None:
    units = (bounds.IMBALANCE, bounds.TILES, bounds.COPIES, bounds.HOPS, bounds.TIME, bounds.DISPATCH, bounds.COMBINE)
    keys = {*FIGURES, *(f"{name}_per_token" for name in PER_TOKEN), *units, bounds.LATENCY}
    assert keys - set(NAMES) == set()


def test_times_have_their_unit() -> None:
    assert all(NAMES[key].endswith(", us") for key in NAMES if key.endswith("_us"))


def test_a_statistic_stands_between_the_word_and_the_unit() -> None:
    assert name_of("latency_us", "p99") == "latency p99, us"
    assert name_of("imbalance", "p50") == "imbalance p50"
    assert name_of("tiles") == "tiles"


def test_the_glossary_has_every_key_with_its_words() -> None:
    text = GLOSSARY.read_text()
    assert [key for key, words in NAMES.items() if f"| {words} | `{key}` |" not in text] == []
