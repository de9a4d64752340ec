"""The page of `rebalance`: what was decided, the gain against moves, and how long the moves take."""

from collections.abc import Sequence

from optimizer.planning.rebalancing.plan import RebalancedPlan
from optimizer.report.page.from_tables import items_of
from optimizer.report.page.moves import moves_picture
from optimizer.report.page.parts import Section
from optimizer.report.page.skeleton import page
from optimizer.report.rebalancing import as_json, parts, verdict


def moves_page(found: RebalancedPlan, notes: Sequence[str]) -> str:
    """A page with the verdict, the picture of the gain against moves, and the tables of `rebalance`."""
    tables = items_of(parts(found)[1:], "rebalanced")
    sections = [
        Section("gain", "Gain against moves", [moves_picture(as_json(found)), *tables]),
        Section("notes", "What to know of the traces", list(notes) or ["Nothing."]),
    ]
    return page(f"moeplan: {found.current.model.name} with few moves", [verdict(found)], sections)
