"""`memsync import`: a file of JSON lines becomes memories, in bulks, and can be repeated.

    command.py   the command: options, summary, exit code
    lines.py     bytes to lines to checked items with a `client_ref`, to bulks
    sending.py   bulks to the cluster: a few in flight, repeated while that can help
    progress.py  what a person sees meanwhile

Every item has a `client_ref`: its own, or one made of its content, so that the cluster itself knows
what it has already. Nothing is remembered on this side.
"""
