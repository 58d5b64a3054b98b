"""Settings of property tests: no deadline, because machines are noisy; in CI always the same examples, elsewhere new ones.

And bytecode is kept, even where the environment says otherwise: some two hundred processes import what does not change meanwhile.
"""

from __future__ import annotations

import os
import sys

from hypothesis import settings

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("tickfold", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("tickfold")
