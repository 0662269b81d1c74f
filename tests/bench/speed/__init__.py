"""The speed of a whole cluster beside its limits: what `scripts/bench` and most of its modes do."""
