"""What a fold computes, as a hash: its configuration, its program, and the source of its strategies.

Two folds of one definition give the same bits of the same inputs. A snapshot fits only a fold of the definition it was made by.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.config import FOLD_SECTIONS, Config
from engine.digest import update
from engine.errors import ReplayError
from engine.events import Configured
from store.ring import OnlineStore


def fold_config(config: Config) -> str:
    """Return the sections that a fold's bits depend on, as JSON with sorted keys."""
    sections = {name: getattr(config, name) for name in FOLD_SECTIONS}
    return msgspec.json.encode(sections, order="sorted").decode()


def definition_of(config: Config, features: OnlineStore, strategies: Sequence[Any]) -> str:
    """Hash all that says what a fold computes."""
    total = hashlib.sha256()
    update(total, (fold_config(config).encode(), features.program.source.encode()))
    for strategy in sorted(strategies, key=lambda one: str(one.name)):
        parameters = msgspec.json.encode(strategy.parameters, order="sorted")
        update(total, (strategy.name.encode(), parameters, _source(type(strategy)).encode()))
    return total.hexdigest()


def config_of(configured: Configured, other: Config) -> Config:
    """Return the journaled configuration of the fold; what does not concern it comes from `other`.

    Raises ReplayError if this version of tickfold does not know what it says.
    """
    kinds = {field.name: field.type for field in msgspec.structs.fields(Config) if field.name in FOLD_SECTIONS}
    try:
        raw = msgspec.json.decode(configured.config, type=dict[str, msgspec.Raw])
        sections = {name: msgspec.json.decode(raw[name], type=kind) for name, kind in kinds.items() if name in raw}
    except msgspec.MsgspecError as error:
        raise ReplayError(f"the configuration journaled at sequence {configured.sequence}: {error}") from error
    changed: Config = msgspec.structs.replace(other, **sections)
    return changed


def _source(kind: type) -> str:
    """The text of the file that a class is defined in: what it calls there belongs to it."""
    try:
        return inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError, KeyError):
        return f"{kind.__module__}.{kind.__qualname__}"
