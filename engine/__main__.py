"""`python -m engine VERB` is `tickfold VERB`."""

from __future__ import annotations

import sys

from engine.cli import main

sys.exit(main())
