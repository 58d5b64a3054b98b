"""What a fold computes, as a hash: its configuration, its program, and the source of its strategies.

Two folds of one definition give the same bits of the same inputs. A snapshot fits only a fold of the definition it was made by.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from engine import models
from engine.config import FOLD_SECTIONS, Config
from engine.digest import update
from engine.errors import ReplayError
from engine.events import Configured
from engine.models.settings import ModelsConfig
from engine.models.worker_files import versions
from store.ring import OnlineStore

OURS = ("engine", "feeds", "store", "replay", "strategies")


def fold_config(config: Config) -> str:
    """Return the sections that a fold's bits depend on, as JSON with sorted keys."""
    sections = {name: getattr(config, name) for name in FOLD_SECTIONS}
    return msgspec.json.encode(sections, order="sorted").decode()


def definition_of(config: Config, features: OnlineStore, strategies: Sequence[Any]) -> str:
    """Hash all that says what a fold computes."""
    total = hashlib.sha256()
    update(total, (fold_config(config).encode(), features.program.source.encode()))
    update(total, [part.encode() for part in _of_models(config)])
    for strategy in sorted(strategies, key=lambda one: str(one.name)):
        parameters = msgspec.json.encode(strategy.parameters, order="sorted")
        update(total, (strategy.name.encode(), parameters, _source(type(strategy)).encode()))
    return total.hexdigest()


def _of_models(config: Config) -> Iterator[str]:
    """What models are besides their configuration: our own code; of River's the version that a pickle fits; what a plugin's file says."""
    if not config.models.run:
        return
    home = Path(models.__file__).parent
    for path in sorted(home.rglob("*.py")):
        yield f"{path.relative_to(home)}\n{path.read_text(encoding='utf-8')}"
    defined = [config.models.define[name] for name in config.models.run if name in config.models.define]
    algorithms = [one for model in defined for one in (model.algorithm, *model.challengers)]
    if any("algorithm" not in one for one in algorithms):
        yield versions()
    for plugin in (*(str(one.get("factory", "")) for one in algorithms), *(model.target for model in defined)):
        path = Path(plugin.partition(":")[0])
        if path.suffix == ".py" and path.is_file():
            yield path.read_text(encoding="utf-8")


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
    if "models" not in raw:
        sections["models"] = ModelsConfig(run=())  # journaled before there were any
    changed: Config = msgspec.structs.replace(other, **sections)
    return changed


def _source(kind: type) -> str:
    """The text of the file that a class is defined in, and of the files beside or below it that it imports from."""
    module = sys.modules.get(kind.__module__)
    home = Path(getattr(module, "__file__", None) or "").parent
    texts: dict[str, str] = {}
    waiting = [module]
    while waiting:
        found = waiting.pop()
        path = getattr(found, "__file__", None)
        if found is None or path is None or path in texts or home not in Path(path).parents or _is_others(found, kind):
            continue
        try:
            texts[path] = inspect.getsource(found)
        except (OSError, TypeError):
            continue
        for value in vars(found).values():
            waiting.append(
                value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            )
    # By their place relative to the plugin's: the same files elsewhere are the same definition.
    parts = [f"{Path(path).relative_to(home)}\n{text}" for path, text in sorted(texts.items())]
    return "\n".join(parts) or f"{kind.__module__}.{kind.__qualname__}"


def _is_others(module: ModuleType, kind: type) -> bool:
    """Whether a module is no part of a plugin: an installed package, or tickfold itself, of which the program's source says what counts."""
    top = module.__name__.partition(".")[0]
    path = Path(module.__file__ or "")
    return "site-packages" in path.parts or (top in OURS and top != kind.__module__.partition(".")[0])
