"""Clusters on one machine: three nats-servers, three peers and two gateways (`scripts/up`), or one
of each and no gateway (`memsync dev`).

What lives here makes a home folder (`home`, `secrets`), writes the configurations into it (`nats`,
`settings`), tests the ports (`ports`) and runs the Procfile (`processes`). `scripts/up` and
`scripts/down` are its command lines; tests and `memsync dev` may call `prepare` directly.
Nothing here is needed in production, where an operator brings servers and configurations along.
"""
