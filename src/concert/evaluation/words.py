"""A certificate in words: one sentence that says what is certified, for whom and how surely.

The sentence is a template with {answer} and {radius}, so that a page can fill it in for many
images; radii put into it are rounded down.
"""

from __future__ import annotations

from typing import Final

from concert.certificates import Guarantee
from concert.evaluation.rendering import rounded_down
from concert.records import Certification

_CERTIFIED: Final = {
    Guarantee.DEPLOYED: (
        "{surely}the classifier as deployed answers {{answer}} for {every} at an l2 distance below "
        "{{radius}}."
    ),
    Guarantee.FROZEN: (
        "{surely}a classifier whose sigma map stays frozen at this image answers {{answer}} for "
        "{every} at an l2 distance below {{radius}}. The classifier that runs computes another map "
        "there and is not covered."
    ),
    Guarantee.NONE: (
        "Answers {{answer}}. A published formula gives the radius {{radius}}; it guarantees "
        "nothing."
    ),
    Guarantee.UNKNOWN: (
        "Answers {{answer}} with radius {{radius}}; the log does not say what that guarantees."
    ),
}
UNCERTIFIED: Final = "Answers {answer}; nothing around the image is certified."
ABSTAINED: Final = "Abstains: {reason}. Nothing is certified."


def certified_sentence(guarantee: Guarantee, certificate: str, alpha: float | None) -> str:
    """The template for an image with a radius above 0; `alpha` None where it is not known."""
    surely = (
        "As far as the log says, "
        if alpha is None
        else f"With probability at least 1 - {alpha:g} over the draws, "
    )
    every = "every image of 8 bits" if certificate == "isotropic-grid" else "every image"
    return _CERTIFIED[guarantee].format(surely=surely, every=every)


def sentence_of(certification: Certification, answer: str, alpha: float) -> str:
    """The sentence about one image; `answer` is the name of its class."""
    if certification.reason:
        return ABSTAINED.format(reason=certification.reason.rstrip("."))
    if certification.radius <= 0:
        return UNCERTIFIED.format(answer=answer)
    template = certified_sentence(certification.guarantee, certification.certificate, alpha)
    return template.format(answer=answer, radius=rounded_down(certification.radius))
