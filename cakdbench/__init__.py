"""cakdbench: a benchmark suite for cross-architecture knowledge distillation."""

__version__ = "0.1.0"
