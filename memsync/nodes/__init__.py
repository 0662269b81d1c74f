"""The processes of memsync: the only place where adapters meet the engine. No logic.

The linear algebra libraries read how many threads to use when they are loaded, so it is said here,
before anything else is imported: one. A recall is microseconds of arithmetic; handing half of it to
a second thread costs milliseconds whenever the other core is busy (measured on 2 cores with 2,000
memories in the scope, p50 of a recall over NATS: 5.9 ms with the default, 1.6 ms with one thread).
"""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
