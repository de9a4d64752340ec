"""Colours that colour-blind readers can tell apart, on light and on dark ground (Okabe and Ito 2008)."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
"""Okabe and Ito's colours for things of different kinds, with grey instead of black and yellow, which are hard to see
on dark and on light ground."""

BEFORE_COLOUR, PLAN_COLOUR = COLOURS[0], COLOURS[1]

STAGE_COLOURS = {"routing": COLOURS[3], "dispatch": COLOURS[5], "compute": COLOURS[0], "combine": COLOURS[4]}

SEQUENTIAL, OTHER_SEQUENTIAL, DIVERGING = "Viridis", "Cividis", "RdBu"
"""Plotly's scales: the first two grow evenly in lightness, and the last one is told apart by all common kinds of colour
blindness."""
