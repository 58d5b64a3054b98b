"""Models outside the engine: MLflow as an effect, and the flavour in which models are kept there. Imports MLflow only when it is used."""

from engine.tracking.flavour import keep, load_model, log_model, save_model
from engine.tracking.state import KeptModel

__all__ = ["KeptModel", "keep", "load_model", "log_model", "save_model"]
