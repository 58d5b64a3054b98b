"""The command line in this process: for tests that ask what a verb finds, and not how a process behaves."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from engine.cli import main
from tests.folding import environment


def inside(*words: str | Path, cwd: Path | None = None, **variables: str) -> CompletedProcess[str]:
    """Run a verb to its end here. A process of its own would import for a second what is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        contextlib.chdir(cwd or tempfile.gettempdir()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:  # argparse leaves so
            code = int(ended.code or 0)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
