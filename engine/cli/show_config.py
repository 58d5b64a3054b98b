"""`tickfold config`: the configuration as it is resolved, without its secrets."""

from __future__ import annotations

import argparse

from engine.cli.options import DONE, Verbs, add_verb, read_config


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(verbs, "config", show_config, "print the configuration as it is resolved, secrets redacted")


def show_config(options: argparse.Namespace) -> int:
    """Print the resolved configuration. What is redacted has to be filled in again where it is to be read back."""
    import msgspec

    from engine.config import to_toml
    from engine.redact import redact

    shown = redact(msgspec.to_builtins(read_config(options)))
    print(msgspec.json.encode(shown).decode() if options.json else to_toml(shown), end="\n" if options.json else "")
    return DONE
