"""Settings of property tests: no deadline, because machines are noisy; in CI always the same examples, elsewhere new ones."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("tickfold", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("tickfold")
