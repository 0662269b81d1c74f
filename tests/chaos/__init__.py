"""Workloads against a nemesis on real processes, their history, and who judges it."""
