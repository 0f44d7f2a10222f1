"""The demonstration: `python -m hack.demo` shows OptiInfra at work on a throw-away Kubernetes, in about five minutes.

A real control plane (hack.cluster), the chart installed by Helm, operator and agent as local processes under the
chart's own ServiceAccounts, and a simulated engine fleet. `stage` starts and ends everything, `watch` looks, `play`
is the sequence of events, `verdict` judges what was seen, `table` and `report` show it. It exits with 0 only if all
that it claims really happened; the controllers' tests run the same code.
"""
