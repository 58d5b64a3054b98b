"""A learner's program: its steps inside the loops that drive them, compiled once for all features, classes and parameters.

    run          all steps of a batch of a ledger: learn what has matured, predict
    predict_row  one row: features, then room for the outputs
    learn_row    one row and its label

What no learner may see stops here: a row with a feature that is not finite (or beyond LIMIT) is not learned from and predicts NaN, and
so does a label that is none; an output that is not finite becomes NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from engine.jit import Gathered, compile_module, entry_point
from engine.models.compiled.learner import LIMIT, Learner
from engine.models.compiled.state import FEATURES, HEAD, LEARNED, OUTPUTS
from engine.models.layout import LABEL, SLOT, UPTO

SIGNATURES = {
    "run": "void(float64[::1], float64[:, ::1], int64[:, ::1], int64[::1], int64, int64, int64)",
    "predict_row": "void(float64[::1], float64[::1])",
    "learn_row": "int64(float64[::1], float64[::1], float64)",
}


@dataclass(frozen=True)
class Program:
    """The three entries; `state` is packed as `state.py` says, C-contiguous like every array here."""

    run: Callable[[Any, Any, Any, Any, int, int, int], None]
    """(state, ledger, steps, answers, out_at, x_at, first): what `Arm.run` asks for, the last three being columns and a step."""
    predict_row: Callable[[Any, Any], None]
    """(state, row): row[features : features + outputs] are written."""
    learn_row: Callable[[Any, Any, float], int]
    """(state, row, label): returns 1 if it was learned from, 0 if row or label cannot be."""


def is_usable(x: Any) -> bool:
    """Return whether all are finite numbers within +-LIMIT."""
    bad = 0
    for at in range(len(x)):
        if not abs(x[at]) <= LIMIT:
            bad += 1
    return bad == 0


def plain_program(learner: Learner) -> Program:
    """Return a learner's program uncompiled: the same bits, some hundred times slower."""
    predict, learn = learner.predict, learner.learn
    own_at = HEAD + len(learner.parameters)
    is_class = learner.is_class
    work_size = learner.work

    def say(p: Any, s: Any, x: Any, out: Any, work: Any) -> None:
        if is_usable(x):
            predict(p, s, x, out, work)
        else:
            out[0] = np.nan
        if not is_usable(out):
            for at in range(len(out)):
                out[at] = np.nan

    def take(state: Any, p: Any, s: Any, x: Any, y: float, outputs: Any, work: Any) -> int:
        if not (abs(y) <= LIMIT and is_usable(x)):
            return 0
        if is_class and not (0.0 <= y < outputs):
            return 0
        learn(p, s, x, y, outputs, work)
        state[LEARNED] += 1.0
        return 1

    def run(state: Any, ledger: Any, steps: Any, answers: Any, out_at: Any, x_at: Any, first: Any) -> None:
        features, outputs = int(state[FEATURES]), int(state[OUTPUTS])
        p, s = state[HEAD:own_at], state[own_at:]
        work = state[len(state) - work_size(features, outputs) :]
        answer = steps[first - 1, UPTO] if first > 0 else 0
        for at in range(first, len(steps)):
            while answer < steps[at, UPTO]:
                row = ledger[answers[answer]]
                take(state, p, s, row[x_at : x_at + features], row[LABEL], outputs, work)
                answer += 1
            slot = steps[at, SLOT]
            if slot >= 0:
                row = ledger[slot]
                say(p, s, row[x_at : x_at + features], row[out_at : out_at + outputs], work)

    def predict_row(state: Any, row: Any) -> None:
        features, outputs = int(state[FEATURES]), int(state[OUTPUTS])
        work = state[len(state) - work_size(features, outputs) :]
        say(state[HEAD:own_at], state[own_at:], row[:features], row[features : features + outputs], work)

    def learn_row(state: Any, row: Any, y: float) -> int:
        features, outputs = int(state[FEATURES]), int(state[OUTPUTS])
        work = state[len(state) - work_size(features, outputs) :]
        return take(state, state[HEAD:own_at], state[own_at:], row[:features], y, outputs, work)

    return Program(run, predict_row, learn_row)


@cache
def text_of(learner: Learner, *entries: str) -> str:
    """Return the module that is compiled for some entries of a learner."""
    plain = plain_program(learner)
    gathered = Gathered()
    bodies = []
    for entry in entries:
        function = getattr(plain, entry)
        arguments = ", ".join(inspect.signature(function).parameters)
        body = f"    return {gathered.add(function)}({arguments})"
        bodies.append(entry_point(f"entry_{entry}", SIGNATURES[entry], arguments, body))
    return gathered.text("\n\n".join(bodies))


@cache
def run_of(learner: Learner) -> Callable[[Any, Any, Any, Any, int, int, int], None]:
    """Return a learner's compiled `run`. The first time on a machine that takes some seconds."""
    found: Callable[..., None] = compile_module(text_of(learner, "run"), f"the learner {learner.name}").entry_run
    return found


@cache
def program_of(learner: Learner) -> Program:
    """Return all of a learner's compiled program; the entries of single rows are what no arm needs, and compiled apart."""
    rows = compile_module(text_of(learner, "predict_row", "learn_row"), f"the learner {learner.name}, row by row")
    return Program(run_of(learner), rows.entry_predict_row, rows.entry_learn_row)
