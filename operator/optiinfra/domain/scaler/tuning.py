"""Every constant of the decision, in one place, with its unit and its reason.

They were tuned on some of the open traces and checked on the others (`bench/scaling.py`); most are flat within one per
cent. None of them depends on a workload: what differs between workloads is learned.
"""

from dataclasses import dataclass
from typing import Final

TICK_S: Final = 15.0
"""Seconds between two observations."""
TICKS_PER_HOUR: Final = 240
WINDOW_TICKS: Final = 20
"""Five minutes: the window in which an incident is counted, and after which the weights are refreshed."""
MOST_START_TICKS: Final = 80
"""Longest start-up that is simulated, 20 minutes; a longer one is planned for as if it were this long."""
SEEN_LATE_TICKS: Final = 2
"""A shadow lives through a tick two ticks after it began: that is when its arrivals are known."""

GAINS: Final = (0.0, 0.9)
"""Shares of the measured trend that a forecast extrapolates over the start-up."""
HOLDS: Final = (4, 12, 40, 80, 160)
"""Ticks over which the forecast's maximum is held: 1, 3, 10, 20 and 40 minutes."""
MARGINS: Final = (-0.10, -0.05, 0.0, 0.05, 0.10, 0.20, 0.30, 0.50)
"""Headroom, as a share of the mean load of a day, whatever the load is now."""
TARGETS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Targets of the plain HPAs that live beside the shadows."""
REFERENCE: Final = 2
"""Index of the HPA whose incidents are the measure: target 0.7."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants that experiments vary."""

    late_price: float = 3.0
    """What a unit of late work costs, in units of busy replica, while the budget is kept."""
    late_aim: float = 0.35
    """Share of the late budget from which the price rises."""
    late_price_most: float = 10.0
    """Largest factor on the price of late work."""
    young_factor: float = 100.0
    """A first jump can spend a day's budget: the price is higher around the first half day."""
    young_hours: float = 6.0
    incident_price: float = 26.0
    """What a bad window costs, in windows of mean load."""
    incident_allowed: float = 0.7
    """Incidents allowed, as a share of those that the reference HPA has on the same load."""
    incident_prior: float = 1.0
    """One incident is forgiven to both sides at the beginning."""
    incident_hours: float = 120.0
    """Memory of incidents."""
    incident_price_least: float = 0.1
    incident_price_most: float = 8.0
    temperature: float = 0.016
    """How much dearer a shadow may be and still count: the mean of many is steadier than the best one."""
    temperature_hours: float = 24.0
    """The temperature is higher by sqrt(1 + this / age): little evidence does not choose."""
    forget_hours: float = 120.0
    """Memory of costs and lateness."""
    prior_hours: float = 6.0
    """What the prior is worth beside measurements."""
    mean_hours: float = 24.0
    """Memory of the mean load."""
    drain_s: float = 40.0
    """A backlog is cleared within this time; four times the queue objective."""
    rounding: float = 0.15
    """Replicas: a need this little above a whole number is that number."""
    shrink_slack: float = 0.5
    """Replicas that stay free beyond the need when some are given back."""
    shrink_slack_share: float = 0.06
    """The same at most, as a share of the replicas: half a replica is much for a small service."""
    shrink_lump: float = 0.09
    """Share of the replicas that is given back at once or not at all; HPA's tolerance is 0.1."""
    rise_share: float = 0.05
    """A rise of a large service goes this share further, so that one order does the work of three."""
    rise_slack: float = 0.4
    hour_floor: float = 0.5
    """Never below this share of the last hour's mean."""
    noise: float = 1.5
    """Standard errors that are taken off a trend of three minutes before it is believed."""
    fast_noise: float = 6.0
    """The same for a trend of five samples, which are easily in line by chance."""
    young_floor_hours: float = 1.0
    """A service that is younger keeps capacity for the highest level it has seen, less and less as it grows up."""
    first_headroom: float = 1.3
    """What runs at the beginning somebody chose: it is taken for the highest level times this."""
    realised_hours: float = 48.0
    """Memory of the lateness that really happened."""
    realised_prior_hours: float = 16.0
    """Hours without lateness that are assumed before the beginning."""
    collapse_share: float = 0.3
    """A steady load that falls below this share of its lowest five minutes has collapsed: an outage, not customers."""
    collapse_hold_ticks: int = 960
    """How long the capacity is kept for its return: four hours."""
    settle_ticks: int = 20
    """Ticks after the first start-up before shadows are scored: their common beginning says nothing about them."""
    profiles: bool = True
    """A believed daily or weekly profile may add to the need."""


DEFAULT: Final = Tuning()
