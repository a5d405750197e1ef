"""Personal data and secrets: found by structure and checks, hidden so that they can come back."""

from freehold.guard.pii.find import THRESHOLD, find
from freehold.guard.pii.masking import Mask, Restorer
from freehold.guard.pii.policy import PersonalData, PersonalPolicy, apply

__all__ = [
    "THRESHOLD",
    "Mask",
    "PersonalData",
    "PersonalPolicy",
    "Restorer",
    "apply",
    "find",
]
