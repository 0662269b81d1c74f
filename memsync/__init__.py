"""memsync: a highly available, self-hosted memory layer for AI agents.

Start reading at `ARCHITECTURE.md` beside this file.
"""

__version__ = "0.1.0"
