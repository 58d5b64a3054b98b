"""Builds the parser of all verbs, runs one, and turns what goes wrong into an exit code and a line or two."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from engine.cli import audit, doctor, exchange, models, record, replay, run, show_config, top, verify
from engine.cli.options import CHECK_FAILED, DONE, INTERRUPTED, SERVICE_DOWN, WRONG_INPUT
from engine.errors import EngineError, ServiceError

VERBS = (run, replay, verify, exchange, record, audit, models, top, doctor, show_config)
"""Modules with `add(verb)`, in the order in which --help lists them."""


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return WRONG_INPUT
    verb: Callable[[argparse.Namespace], int] = options.action
    try:
        code = verb(options)
        sys.stdout.flush()
        return code
    except EngineError as error:
        print(f"tickfold: {error}", file=sys.stderr)
        if options.verbose:
            traceback.print_exception(error)
        return SERVICE_DOWN if isinstance(error, ServiceError) else WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return DONE if options.verb == "run" else INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            return _defect(options, error)
        where = error.filename or "the output"
        print(f"tickfold {options.verb}: {where} cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG_INPUT
    except Exception as error:
        return _defect(options, error)


def _defect(options: argparse.Namespace, error: Exception) -> int:
    """Say that tickfold itself is at fault."""
    print(f"tickfold {options.verb}: a defect of tickfold: {type(error).__name__}: {error}", file=sys.stderr)
    print("run it again with -v for the traceback", file=sys.stderr)
    if options.verbose:
        traceback.print_exception(error)
    return CHECK_FAILED


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        """Say it, and exit with the code of a wrong input."""
        self.exit(WRONG_INPUT, f"{self.prog}: {message} ({self.prog} --help explains it)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = Parser(
        prog="tickfold",
        description="Folds an ordered stream of market ticks into features and signals: live and replay give the same bits.",
        epilog="First steps: `tickfold replay` folds the built-in recording; `tickfold VERB --help` explains a verb.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for module in VERBS:
        module.add(verbs)
    return parser
