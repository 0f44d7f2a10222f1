"""How many replicas a service needs, learned from its own load: a priced ensemble of shadow scalers.

Eighty simple scalers live each workload's load in simulation, with its real start-up time and their own switch costs.
What they pay and how late their work is gives each a score; late work and bad windows have prices that rise while the
real service has more of them than its objective, or than a plain HPA would have had. The decision is the mean of what
they ask for, weighted by the scores. `decide.Scaler` is the entrance, `state.FleetState` what it remembers, `tuning`
all constants.
The mechanism, what was tried beside it, and its figures: docs/design/2026-11-21-scaling-mechanism.md.
"""
