"""What every formulation stands on: array types, compiled kernels, solver limits and outcomes. Knows no model."""
