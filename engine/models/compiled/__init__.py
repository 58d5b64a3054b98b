"""Compiled learners: declared one a file, compiled by numba, their state one vector, fed rows of the ring beside River's models."""

from engine.models.compiled.arm import CompiledArm, make_compiled_arm
from engine.models.compiled.learner import Learner, Parameter
from engine.models.compiled.model import CompiledModel
from engine.models.compiled.registry import LEARNERS, fitting, learner_of

__all__ = [
    "LEARNERS",
    "CompiledArm",
    "CompiledModel",
    "Learner",
    "Parameter",
    "fitting",
    "learner_of",
    "make_compiled_arm",
]
