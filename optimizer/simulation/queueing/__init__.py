"""How long a layer takes when messages and tokens queue. Must not know routing policies, nor how costs come about."""

from optimizer.simulation.queueing.devices import DeviceWork
from optimizer.simulation.queueing.pipeline import Messages, Overlap, ServedPairs, overlap

__all__ = ["DeviceWork", "Messages", "Overlap", "ServedPairs", "overlap"]
