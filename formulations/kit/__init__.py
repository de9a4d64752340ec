"""What every formulation stands on: array types, kernels, solver limits and outcomes. Must not know models."""
