"""`python -m memsync`: the command line, also where its script is not in the PATH."""

from memsync.cli.main import main

main()
