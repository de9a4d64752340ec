"""The things that are planned for: model, mesh, network, cost, placement. Must not know where loads come from."""
