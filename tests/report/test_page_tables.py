"""Tables of pages are the printed ones: columns of words break into lines, and columns of figures stay at the right."""

from rich.table import Table

from optimizer.report.page.from_tables import table_of
from optimizer.report.page.parts import Section
from optimizer.report.page.skeleton import page


def test_words_stand_at_the_left_beside_figures_in_the_page_and_in_what_its_script_reads() -> None:
    printed = Table("step", title="Steps")
    printed.add_column("p99, us", justify="right")
    printed.add_column("remark")
    printed.add_row("first", "90.0", "a < b")
    made = table_of(printed, "steps")
    assert made.words == {2}, "the first column names the row, and needs no mark"
    html = page("title", ["verdict"], [Section("all", "All", [made])])
    assert "<td>90.0</td><td class=words>a &lt; b</td>" in html
    assert '<th scope="col" class=words>remark</th>' in html
    assert '"words": [2]' in html or '"words":[2]' in html
