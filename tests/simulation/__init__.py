"""The cluster on the in-memory adapters, under virtual time and a seed, with faults and a judge.

The engine and the service are the real ones. What stands around them is simulated: the event loop's
time (`loop`), chance (`chance`), what travels between peers, bus and callers (`network`), disks
(`disk`), clocks and processes (`process`). `faults` harms all of it, `clients` and `workload` write
and read beside it, `judge` says whether a promise was broken, and `breaks` harms the product itself
so that it can be seen that the judge would notice.

    scripts/simulate --seeds 2000            many seeds, several at once
    scripts/simulate --seed 17 --trace       one seed, everything that happened
"""
