"""Models: what is predicted, learned, verified when its time has come, and replaced by proof.

`build` and `progressive` are functions here; the modules of the same names are reached by `from engine.models.build import ...`.
"""

from engine.models.build import build
from engine.models.progressive import progressive

__all__ = ["build", "progressive"]
