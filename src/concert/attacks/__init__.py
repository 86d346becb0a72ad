"""Attacks on smoothed classifiers and on their base classifiers, one file a method."""

from concert.attacks.base import AttackResult
from concert.attacks.cadv import cadv
from concert.attacks.pgd import pgd
from concert.attacks.shadow import shadow
from concert.attacks.spoofing import spoofing_shadow

__all__ = ["AttackResult", "cadv", "pgd", "shadow", "spoofing_shadow"]
