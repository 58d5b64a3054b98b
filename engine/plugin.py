"""Plugins that lie in a Python file: a strategy, or feature views with indicators of one's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from engine.errors import EngineError


def import_file(path: Path, error: type[EngineError], where: str, name: str = "") -> ModuleType:
    """Return the module that a file holds, run anew, by default named after the file: pickles of its classes find them by that name.

    Raises `error`, opened by `where`, if the file is not there or cannot be run.
    """
    if not path.is_file():
        raise error(f"{where} {path}: no such file")
    name = name or f"tickfold_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{where} {path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # sys.exit() at its top is no reason to leave without a word.
    except (Exception, SystemExit) as cause:
        del sys.modules[name]
        raise error(f"{where} {path}: {type(cause).__name__}: {cause}") from cause
    return module
