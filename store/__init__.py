"""The feature store: what a feature is, how it is computed, where its values live."""

from __future__ import annotations

from typing import Any

__all__ = ["FeatureView", "OnlineStore", "compute"]

_HOMES = {"FeatureView": "store.schema", "OnlineStore": "store.ring", "compute": "store.batch"}


def __getattr__(name: str) -> Any:
    """Import on first use: Arrow and numba would cost every import of the package a third of a second."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'store' has no attribute {name!r}; there are {', '.join(__all__)}")
