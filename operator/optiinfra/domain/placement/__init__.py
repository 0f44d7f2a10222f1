"""Where a pod should go: feasibility and scores on arrays, for replays and for the plans that empty nodes.

`request.Request` is what a pod asks for, `cluster.Cluster` what is left on every node and device, `demand.Demand`
what kinds of pods are to be expected, `rules` what people use today, `fragmentation` the published score that counts
unusable GPUs, `placer.Placer` the entrance: it keeps every score up to date and chooses.

The scheduler of the cluster places pods, not this package: it says what a placement would be worth. Taints, affinity
and topology come in as boolean masks over the nodes; nothing here reads labels.
"""
