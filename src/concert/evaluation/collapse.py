"""Has the classifier been trained with this noise at all? What its first certifications say.

A classifier that does not know the noise abstains on every image, or gives all of them one and the
same class, with confidence: a certificate for a useless answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from concert.records.record import ABSTAIN

ENOUGH: Final = 16
FEWEST: Final = 4


def collapsed(answers: Sequence[int], labels: Sequence[int]) -> bool:
    """Whether the answers (class or -1) to the first images, with these true labels, are no use.

    True if `ENOUGH` images or more are all abstained on, or get no class but one although no true
    label makes up more than half of them; of fewer, but `FEWEST`, if all are abstained on. A
    smoothed classifier that is right about half the images gives two classes at least, but for data
    that are sorted by class, which the condition on the labels leaves out.
    """
    given = set(answers) - {ABSTAIN}
    if len(answers) < ENOUGH:
        return len(answers) >= FEWEST and not given
    most = max(Counter(labels).values())
    return not given or (len(given) == 1 and 2 * most <= len(labels))
