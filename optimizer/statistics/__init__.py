"""What recorded routing says: loads, co-activation, drift. Must not know any placement's replicas."""
