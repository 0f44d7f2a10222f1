"""Where a pod should go: feasibility and scores on arrays, for replays and for the plans that empty nodes.

`request.Request` is what a pod asks for, `cluster.Cluster` what is left on every node and device, `demand.Demand`
what kinds of pods are to be expected, `best` the operator's own rule, `fragmentation` the published score that counts
unusable GPUs, `rules` what people use today, `placer.Placer` the entrance: it keeps every score up to date and
chooses. `arrivals`, `scheduler`, `fill`, `drain` and `churn` replay clusters that fill and that live.

The scheduler of the cluster places pods, not this package: it says what a placement would be worth. Taints, affinity
and topology come in as boolean masks over the nodes; nothing here reads labels.
"""
