"""The benchmarks: tickfold beside its peers, one thread each.

Every library here asks for its number of threads when it is imported, so that is settled before the first of them is.
"""

import os

for _name in (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS", "ARROW_IO_THREADS",
):  # fmt: skip
    os.environ[_name] = "1"
