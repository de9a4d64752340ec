"""The files in which servers keep placements, both ways. Must not know plans, traces, policies or costs.

What a file says becomes a `ServerPlacement`, whatever the format, and `planning` turns it into a plan and back.
"""

from optimizer.exchange.formats import read_placement as read_placement
from optimizer.exchange.server_placement import ServerPlacement as ServerPlacement
