"""Placement, replication and routing of Mixture-of-Experts models on device meshes."""
