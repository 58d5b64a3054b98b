"""`tickfold config`: the configuration as it is resolved."""

from __future__ import annotations

import argparse

from engine.cli.options import DONE, Verbs, add_verb, read_config


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(verbs, "config", show_config, "print the configuration as it is resolved")


def show_config(options: argparse.Namespace) -> int:
    """Print the resolved configuration."""
    import msgspec

    from engine.config import to_toml

    config = read_config(options)
    print(msgspec.json.encode(config).decode() if options.json else to_toml(config), end="\n" if options.json else "")
    return DONE
