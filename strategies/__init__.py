"""Strategy plugins: the base class, the loader, and two examples."""

from __future__ import annotations

from strategies.base import Strategy
from strategies.loader import load

__all__ = ["Strategy", "load"]
