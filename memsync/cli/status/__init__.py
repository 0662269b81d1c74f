"""`memsync status`: one look at everything.

`processes` asks each process for its readiness, its figures and its members; `bus` asks the bus;
`command` is the command.
"""
