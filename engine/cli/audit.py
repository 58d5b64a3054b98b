"""`tickfold audit`: proves that the past does not know the future."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from engine.cli.options import (
    CHECK_FAILED,
    DONE,
    Verbs,
    add_selection,
    add_verb,
    load_strategies,
    open_sources,
    read_config,
    selection_of,
)


def add(verbs: Verbs) -> None:
    """Add the verb."""
    audit = add_verb(
        verbs,
        "audit",
        run_audit,
        "prove that nothing looks ahead: features and signals do not change when the future does",
    )
    audit.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="Parquet ticks or quotes, or a capture")
    add_selection(audit)
    audit.add_argument(
        "--cuts",
        type=int,
        default=20,
        metavar="N",
        help="random places at which past and future are parted (default: 20)",
    )
    audit.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the cuts and the perturbations (default: 0)"
    )


def run_audit(options: argparse.Namespace) -> int:
    """Prove that the past does not know the future."""
    from replay.audit import audit_fold
    from replay.terminal import progress_bar

    config = read_config(options)
    with progress_bar("audit", options.cuts) as progress:
        result = audit_fold(
            config,
            lambda: load_strategies(config),
            lambda: open_sources(options.sources),
            selection_of(options),
            cuts=options.cuts,
            seed=options.seed,
            progress=progress,
        )
    if options.json:
        print(json.dumps(result.to_builtins()))
    else:
        print(result.text())
    return DONE if result.passed else CHECK_FAILED
