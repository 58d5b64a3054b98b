"""The compiled modules that models need, compiled by a process beside this one where this machine has not compiled them before.

A first start has the views' program to compile too, on another processor at the same time. Where the process cannot be started, or
fails, this one compiles when it comes to it: nothing depends on it but the wait.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from engine.jit import is_compiled
from engine.models.spec import ModelSpec

COMPILE = (
    "import json, sys; from engine.jit import compile_module; [compile_module(*one) for one in json.load(sys.stdin)]"
)
WAIT_S = 300.0
"""After which a process that compiles is not waited for any longer."""


def texts_of(specs: Sequence[ModelSpec]) -> list[tuple[str, str]]:
    """Return (module text, what it is) of what models need, the longest to compile first."""
    from engine.models.compiled.program import text_of
    from engine.models.compiled.registry import LEARNERS
    from engine.models.judge import text_of_judge
    from engine.models.timeline import text_of_walk

    if not specs:
        return []
    names = sorted({str(one.get("algorithm")) for spec in specs for one in spec.algorithms} & set(LEARNERS))
    learners = [(text_of(LEARNERS[name], "run"), f"the learner {name}") for name in names]
    return [(text_of_judge(), "the models' judge"), (text_of_walk(), "the models' timeline"), *learners]


@contextmanager
def compiling_beside(specs: Sequence[ModelSpec]) -> Iterator[None]:
    """Have what models need compiled by another process while the body runs; wait for it at the end."""
    missing = [(text, purpose) for text, purpose in texts_of(specs) if not is_compiled(text)]
    child = None
    if missing:
        with suppress(OSError):
            child = subprocess.Popen([sys.executable, "-c", COMPILE], stdin=subprocess.PIPE)
            assert child.stdin is not None
            child.stdin.write(json.dumps(missing).encode())
            child.stdin.close()
    try:
        yield
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(WAIT_S)
    finally:
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()
