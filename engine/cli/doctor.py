"""`tickfold doctor`: whether this machine and this configuration can run a daemon."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import CHECK_FAILED, DONE, Verbs, add_verb

if TYPE_CHECKING:
    from engine.doctor import Finding

COLOURS = {"ok": "\x1b[32m", "warn": "\x1b[33m", "fail": "\x1b[31m"}
PLAIN = "\x1b[0m"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    doctor = add_verb(
        verbs, "doctor", run_doctor, "check this machine and the configuration: exit code 1 if anything fails"
    )
    doctor.add_argument("--data", type=Path, metavar="DIR", help="the data folder to look at (default: data.dir)")


def run_doctor(options: argparse.Namespace) -> int:
    """Make all checks and say what each found."""
    findings = []
    for finding in _findings(options):
        findings.append(finding)
        if not options.json:
            print(_line(finding), flush=True)
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    if options.json:
        import msgspec

        print(
            json.dumps(
                {"passed": not failed, "failed": failed, "warned": warned, "findings": msgspec.to_builtins(findings)}
            )
        )
    else:
        print(f"{len(findings)} checks: {failed} failed, {warned} with a warning")
    return CHECK_FAILED if failed else DONE


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    """Make one check after the other, what others rest on first."""
    from engine import doctor
    from engine.cli import checks
    from store.folder import DataFolder

    clock = doctor.ClockCheck()
    config, configured = checks.check_config(options)
    folder = DataFolder(Path(options.data if options.data is not None else config.data.dir))
    segment, retention = config.journal.segment_mib << 20, config.journal.retention_mib << 20
    steps: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", doctor.check_python),
        ("packages", doctor.check_packages),
        ("event loop", doctor.check_uvloop),
        ("config", lambda: configured),
        ("plugins", lambda: checks.check_plugins(config)),
        ("compiled programs", lambda: checks.check_cache(config)),
        ("processors", doctor.check_processors),
        ("memory", doctor.check_memory),
        ("open files", doctor.check_descriptors),
        ("data folder", lambda: doctor.check_folder(folder.path)),
        ("disk space", lambda: doctor.check_space(folder.path, segment, retention, checks.journal_bytes(folder))),
        ("reserving", lambda: doctor.check_reserve(folder.path, segment)),
        ("disk sync", lambda: doctor.check_sync(folder.path, config.journal.fsync)),
        ("journal", lambda: checks.check_data(folder)),
        ("token", lambda: checks.check_token(config, folder)),
        ("port", lambda: checks.check_port(config)),
        ("page", checks.check_page),
        ("clock", clock.look),
    )
    passed_over: set[str] = set()
    for name, look in steps:
        if name in passed_over:
            continue
        finding = doctor.guarded(name, look)
        yield finding
        if name == "data folder" and finding.status == "fail":
            passed_over |= {"reserving", "disk sync"}  # both write there


def _line(finding: Finding) -> str:
    """One check in one line: what was found, what was expected, what to do."""
    status = f"{finding.status:<4}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        status = f"{COLOURS[finding.status]}{status}{PLAIN}"
    said = finding.found + (f"; expected {finding.expected}" if finding.expected else "")
    said += f"; to do: {finding.remedy}" if finding.remedy else ""
    return f"{status}  {finding.check:<18} {' '.join(said.split())}"
