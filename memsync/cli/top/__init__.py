"""`memsync top`: what the cluster is doing, second by second.

`counts` reads the text of `/metrics` and tells what happened between two readings; `watching` asks
the processes; `sample` makes one reading after another into what is shown; `showing` shows it; and
`command` is the command.
"""
