"""Names, tags and aliases in MLflow's registry, and the engine's own record of the versions that it logged there.

Name     "btcusdt.direction_60s"; where another exchange's symbol has that name, "btcusdt.kucoin.direction_60s"
Aliases  champion, challenger (the one with the most evidence), previous; each names the newest logged version of that one
Tags     of a registered model and of each version: which engine, exchange, symbol and model, which of its versions, at what sequence

The record is a file of the data folder. What an alias may do to the engine depends on it, not on tags, which anyone can write.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ModelError

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
KEPT_VERSIONS = 4_096
"""Of each registered model the newest are known by the record; an alias moved to an older one is not followed."""


class Subject(msgspec.Struct, frozen=True):
    """One model of one key."""

    exchange: str
    symbol: str
    model: str
    horizon: str

    @property
    def target(self) -> str:
        """What a command calls its key."""
        return f"{self.exchange}:{self.symbol}"


class LoggedVersion(msgspec.Struct, frozen=True, array_like=True):
    """One version in MLflow."""

    number: str  # MLflow's
    version: str  # the engine's
    sequence: int
    learned: int
    sha256: str  # of its state


class RegisteredModel(msgspec.Struct):
    """What the engine knows of one name."""

    name: str
    subject: Subject
    versions: list[LoggedVersion] = []  # oldest first
    aliases: dict[str, str] = {}  # as the engine set them: alias to number

    def newest(self, version: str) -> LoggedVersion | None:
        """The newest that was logged of one of the engine's versions."""
        return next((one for one in reversed(self.versions) if one.version == version), None)

    def numbered(self, number: str) -> LoggedVersion | None:
        """The one that MLflow calls `number`, if this engine logged it."""
        return next((one for one in self.versions if one.number == number), None)


class Record(msgspec.Struct):
    """All names of one engine on one tracking server."""

    engine: str
    models: dict[str, RegisteredModel] = {}  # by name

    def of(self, subject: Subject) -> RegisteredModel | None:
        """What was registered for a subject, if anything was."""
        return next((one for one in self.models.values() if one.subject == subject), None)


def registered_name(subject: Subject, *, with_exchange: bool = False) -> str:
    """Return the name of a model: lower case, and nothing that MLflow or an address would take for something else."""
    parts = [subject.symbol, subject.exchange] if with_exchange else [subject.symbol]
    return ".".join([*(_plain(part) for part in parts), f"{subject.model.lower()}_{_plain(subject.horizon)}"])


def _plain(text: str) -> str:
    kept = "".join(letter for letter in text.lower() if letter.isascii() and letter.isalnum())
    return kept or hashlib.sha256(text.encode()).hexdigest()[:8]


def record_path(folder: Path, uri: str) -> Path:
    """Return where the record of one tracking server lies: numbers of one mean nothing on another."""
    return folder / f"logged-{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"


def read_record(path: Path, engine: str) -> Record:
    """Return the record as it was left; an empty one if there is none. Raises ModelError if it cannot be read."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record(engine)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path}: {error}; delete it, and older versions are not followed any more") from error
    return record if record.engine == engine else Record(engine)


def write_record(path: Path, record: Record) -> None:
    """Keep the record: all of it or the old one."""
    for one in record.models.values():
        del one.versions[:-KEPT_VERSIONS]
    part = path.with_name(path.name + ".part")
    part.write_bytes(msgspec.json.encode(record))
    part.replace(path)


def engine_id(folder: Path) -> str:
    """Return what names this data folder's engine in MLflow, drawn once and kept. Raises OSError."""
    path = folder / "engine"
    if not path.exists():
        path.write_text(secrets.token_hex(8) + "\n")
    return path.read_text().strip()


def subject_tags(engine: str, subject: Subject) -> dict[str, str]:
    """Return the tags that a run, a registered model and a version have in common."""
    return {
        "tickfold.engine": engine,
        "tickfold.exchange": subject.exchange,
        "tickfold.symbol": subject.symbol,
        "tickfold.model": subject.model,
        "tickfold.horizon": subject.horizon,
    }


def claim(client: Any, record: Record, subject: Subject) -> RegisteredModel:
    """Return the registered model of a subject, made if it is not there. Raises ModelError if its names are another's."""
    known = record.of(subject)
    tags = subject_tags(record.engine, subject)
    names = [known.name] if known is not None else []
    names += [name for short in (False, True) if (name := registered_name(subject, with_exchange=short)) not in names]
    for name in names:
        found = _find(client, name)
        if found is None:
            client.create_registered_model(name, tags=tags)
        elif any(found.tags.get(tag) != tags[tag] for tag in tags if tag != "tickfold.engine"):
            continue
        if known is None or known.name != name:
            known = RegisteredModel(name, subject, [], {})
            record.models[name] = known
        elif found is None:  # it was deleted there, and its numbers begin anew
            known.versions, known.aliases = [], {}
        return known
    raise ModelError(
        f"{' and '.join(names)}: registered in MLflow for something else than {subject.target} {subject.model}"
    )


def _find(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def set_aliases(client: Any, known: RegisteredModel, wanted: dict[str, str | None]) -> None:
    """Point aliases to the newest logged version of each of the engine's; take away those that have none.

    wanted: alias to the engine's version, None for none.
    """
    for alias, version in wanted.items():
        newest = known.newest(version) if version is not None else None
        if newest is not None:
            if known.aliases.get(alias) != newest.number or alias_of(client, known.name, alias) != newest.number:
                client.set_registered_model_alias(known.name, alias, newest.number)
            known.aliases[alias] = newest.number
        elif known.aliases.pop(alias, None) is not None:
            client.delete_registered_model_alias(known.name, alias)


def alias_of(client: Any, name: str, alias: str) -> str | None:
    """Return the number that an alias names, None if there is no such alias."""
    found = _find(client, name)
    number = None if found is None else dict(found.aliases).get(alias)
    return None if number is None else str(number)
