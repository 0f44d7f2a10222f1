"""The operator's exceptions, one tree.

    OptiInfraError
     +-- SettingsError        a setting is missing or wrong; names the variable and the remedy
     +-- LeadershipLost       this process may no longer write; it must stop, not retry
     +-- domain, engines, api, cluster and analysis add their own subtrees below OptiInfraError

Whoever catches `OptiInfraError` catches everything this package raises on purpose and nothing else.
"""


class OptiInfraError(Exception):
    """Base of every error that the operator raises on purpose."""


class SettingsError(OptiInfraError):
    """A setting is missing or wrong. The message names the setting and what to do."""


class LeadershipLost(OptiInfraError):  # noqa: N818  a state of the world, named as people say it
    """The Lease deadline has passed: no write may leave this process any more."""
