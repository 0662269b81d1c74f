"""Rows that are wrong or missing on a peer, on real clusters: most of the time of these tests goes
by until somebody looks again, so they run beside others (`test_healing.py`). One by one:

    scripts/test tests/system/healing -o python_files=*.py
"""
