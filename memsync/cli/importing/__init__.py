"""`memsync import`: a file becomes memories, in bulks, and can be repeated.

    command.py   the command: options, summary, exit code
    sources.py   which format a file has; conversations to JSON lines
    locomo.py    conversations in the format of LoCoMo, and how a turn is written down
    lines.py     bytes to lines to checked items with a `client_ref`, to bulks
    sending.py   bulks to the cluster: a few in flight, repeated while that can help
    progress.py  what a person sees meanwhile

Every item has a `client_ref`: its own, or one made of its content, so that the cluster itself knows
what it has already. Nothing is remembered on this side.
"""
