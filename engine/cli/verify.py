"""`tickfold verify`: a data folder is what was written, and gives again what the daemon noted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from engine.cli.options import CHECK_FAILED, DONE, Verbs, add_verb, load_strategies, read_config


def add(verbs: Verbs) -> None:
    """Add the verb."""
    verify = add_verb(
        verbs,
        "verify",
        run_verify,
        "check a data folder: checksums, order, gaps; fold its journal again and compare the digests",
    )
    verify.add_argument("folder", type=Path, metavar="DIR", help="data folder of a daemon, running or not")


def run_verify(options: argparse.Namespace) -> int:
    """Check a folder; exit code 1 and the first difference if it does not hold."""
    from replay.terminal import progress_bar
    from replay.verify import verify
    from store.folder import DataFolder

    config = read_config(options)
    with progress_bar("verify", 1000) as progress:
        verdict = verify(
            DataFolder(options.folder),
            config,
            load_strategies,
            use_journaled=options.config is None,
            progress=lambda done, total: progress(1000 * done // max(total, 1)),
        )
    print(json.dumps(verdict.to_builtins()) if options.json else verdict.text())
    return DONE if verdict.passed else CHECK_FAILED
