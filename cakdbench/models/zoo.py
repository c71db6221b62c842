"""Look up models by name."""

from __future__ import annotations

from cakdbench.models.catalog import MODELS, ZooEntry, entry, hub_statistics
from cakdbench.models.staged import ModelInfo, describe

__all__ = ["MODELS", "ZooEntry", "entry", "hub_statistics", "model_ids", "model_info", "model_kind"]


def model_ids() -> list[str]:
    """Return the ids of the zoo."""
    return list(MODELS)


def model_info(name: str, num_classes: int, image_size: int = 224, split: str = "ofa") -> ModelInfo:
    """Return kind, layouts and size of a model, without allocating its weights.

    Raises:
        UsageError: unknown name, a size the network cannot take, or a network that gives no four stages.
    """
    return describe(name, num_classes, image_size, split)


def model_kind(name: str) -> str:
    """Return what a network mixes positions with: "cnn", "msa" or "mlp".

    Raises:
        UsageError: unknown name, or a network that gives no four stages.
    """
    known = entry(name)
    return known.kind or describe(name, 1000, known.image_size).kind
