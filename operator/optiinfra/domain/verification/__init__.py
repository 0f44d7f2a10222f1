"""Was an action good: what it was expected to do, what was measured before and after, and what that proves.

An action is an experiment without repetition. `trail` keeps what is measured in windows that do not overlap, `shift`
tells a change from noise, `expectation` says beforehand what is to come, `attribution` finds what else happened
meanwhile, `control_group` finds replicas that nobody touched, `judge` puts them together, and `track_record` remembers
how the rules did. What cannot be told apart from noise or from somebody else's doing is Unknown: neither good nor bad.
"""

from optiinfra.domain.verification.attribution import Course, Disturbance, Scene, disturbance
from optiinfra.domain.verification.control_group import Candidate, Control, NoControl, choose
from optiinfra.domain.verification.expectation import Expectation, expect
from optiinfra.domain.verification.judge import WOKEN, Compared, Outcome, Trialled, Verdict, judge
from optiinfra.domain.verification.resize_trial import ResizeTrial
from optiinfra.domain.verification.track_record import Record, TrackRecord
from optiinfra.domain.verification.trail import Block, Trail, block_of

__all__ = [
    "WOKEN",
    "Block",
    "Candidate",
    "Compared",
    "Control",
    "Course",
    "Disturbance",
    "Expectation",
    "NoControl",
    "Outcome",
    "Record",
    "ResizeTrial",
    "Scene",
    "TrackRecord",
    "Trail",
    "Trialled",
    "Verdict",
    "block_of",
    "choose",
    "disturbance",
    "expect",
    "judge",
]
