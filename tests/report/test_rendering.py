"""Reports on consoles of any width: figures stay whole, headings fold, sentences break between words."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from optimizer.report.rendering import WIDTH, print_parts
from optimizer.report.tables import Part, make_table

HEADINGS = ("imbalance p50", "p99", "gap", "tiles (mean)", "gap", "latency p50, us", "p99, us", "planned in, s")
FIGURES = ("1.391", "1.492", "12.1%", "6.72", "33.9%", "1003.3", "1138.8", "0.013")


def printed(part: Part, width: int) -> str:
    out = io.StringIO()
    print_parts([part], Console(file=out, width=width, highlight=False))
    return out.getvalue()


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def planners() -> Part:
    table = make_table("Layer 12 on 1024 test batches of 512 tokens", "planner", ["routing", *HEADINGS])
    table.add_row("EPLB by groups", "optimal tokens", *FIGURES)
    return table


@pytest.mark.parametrize("width", [200, 120, WIDTH, 80, 60])
def test_figures_are_whole_whatever_the_width(width: int) -> None:
    """Rich ends what is too wide by an ellipsis, and so makes another figure of it."""
    text = printed(planners(), width)
    assert all(re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", text) for figure in FIGURES)
    assert "…" not in text
    assert all(word in text for heading in HEADINGS for word in heading.split())


@pytest.mark.parametrize("width", [WIDTH, 80])
def test_the_widest_tables_fit(width: int) -> None:
    assert widest(printed(planners(), width)) <= width


def test_headings_fold_only_where_they_must() -> None:
    assert "┃ latency p50, us ┃" in printed(planners(), 200)
    assert "┃ latency ┃" in printed(planners(), WIDTH)
    assert "─" in printed(planners(), 80)
    assert "┃" not in printed(planners(), 80), "blanks take less room than lines"


@given(st.lists(st.text("abc xyz", min_size=1, max_size=30), min_size=1, max_size=30), st.integers(20, 150))
def test_sentences_break_between_words(words: list[str], width: int) -> None:
    sentence = " ".join(" ".join(words).split())
    text = printed(sentence, width)
    assert text.split() == sentence.split()
    assert all(len(line) <= min(width, WIDTH) or " " not in line for line in text.splitlines())


def test_paths_and_markup_stay_as_they_are() -> None:
    path = "/a/rather-long-folder" * 8 + "/plan.json"
    assert path in printed(f"The plan is written to {path}.", 80)
    assert "[bold]" in printed("Not [bold] here", 80)


def test_a_title_is_broken_like_a_sentence() -> None:
    table = make_table("word " * 40, "first", ["second"])
    table.add_row("a", "1")
    assert widest(printed(table, 200)) <= WIDTH
