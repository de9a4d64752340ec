"""What `stats` says of how traces were recorded: what looks wrong, and whether enough was recorded."""

from rich.table import Table

from optimizer.report.tables import Part, make_table
from optimizer.statistics.enough import ENOUGH
from optimizer.statistics.inspect_traces import Inspection

NOTHING = "Nothing looks wrong in how these traces were recorded."


def recording_parts(found: Inspection) -> list[Part]:
    """The table of what looks wrong, or a sentence that nothing does, and the table of how much was recorded; neither
    where nothing was recorded, as with the built-in trace."""
    if not found.recorded:
        return []
    return [_wrong(found) if found.suspicions else NOTHING, _enough(found)]


def _wrong(found: Inspection) -> Table:
    """The table of what looks wrong, the worst first."""
    table = Table(title="What looks wrong", title_justify="left")
    table.add_column("seen", overflow="fold", ratio=3)
    table.add_column("what to do", overflow="fold", ratio=2)
    for each in found.suspicions:
        table.add_row(each.seen, each.remedy)
    return table


def _enough(found: Inspection) -> Table:
    """The table of how much of each layer was recorded. An `~` marks a burstiness that is assumed, not measured."""
    title = f"Is enough recorded? (enough: a plan's expected peak is within {ENOUGH:.0%})"
    table = make_table(title, "layer", ["tokens", "burstiness", "wanted", "expected loss", "verdict"])
    for each in found.recorded:
        burst = f"{'' if each.known else '~'}{each.burstiness:.1f}"
        table.add_row(str(each.layer), f"{each.tokens:,}", burst, f"{each.wanted:,}", f"{each.loss:.1%}", each.verdict)
    return table
