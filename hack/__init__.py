"""Tools of the checkout: the Kubernetes binaries, a throw-away cluster, the demo and the chart checks.

Nothing here is shipped. Modules that run before `.venv` is complete (`hack.binaries`) import the
standard library only.
"""
