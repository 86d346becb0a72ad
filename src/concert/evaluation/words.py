"""A certificate in words: one sentence that says what is certified, for whom and how surely.

The sentence is a template with {answer} and {radius}, so that a page can fill it in for many
images; radii and shares put into it are rounded down.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

from concert.certificates import Guarantee, sigma_statistics
from concert.errors import ConcertError
from concert.evaluation.explain.coverage import covered_sides, covers_all_values, is_ball
from concert.evaluation.metrics import percentage
from concert.evaluation.rendering import rounded_down
from concert.noise import GridNoise
from concert.records.record import Certification

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
_UNDECIDED: Final = re.compile(
    r"p_lower \S+ <= 0\.5 from (\d+) of (\d+) votes(?:, (\d+) undecided)?; (.*)"
)
_NEEDED: Final = re.compile(r"n=(\d+) would certify")


def certified_sentence(guarantee: Guarantee, certificate: str, alpha: float | None) -> str:
    """The template for an image with a radius above 0; `alpha` None where it is not known.

    Raises ConcertError for an alpha that is no number, as an edited log may hold.
    """
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        raise ConcertError(f"the log's JSON file says alpha {alpha!r}, which is not a number")
    surely = (
        "As far as the log says, "
        if alpha is None
        else f"With probability at least 1 - {alpha:g} over the draws made for this image, "
    )
    every = "every image" + (" on the noise's grid" if certificate == GridNoise.certificate else "")
    return _CERTIFIED[guarantee].format(surely=surely, every=every)


def sentence_of(
    certification: Certification, answer: str, alpha: float, candidate: str = ""
) -> str:
    """The sentence about one image; `answer` and `candidate` are the names of its classes."""
    if certification.reason:
        why = abstention_reason(certification.reason, certification.p_lower, candidate)
        return ABSTAINED.format(reason=why.rstrip("."))
    if certification.radius <= 0:
        return UNCERTIFIED.format(answer=answer)
    template = certified_sentence(certification.guarantee, certification.certificate, alpha)
    return template.format(answer=answer, radius=radius_text(certification.radius))


def radius_text(radius: float) -> str:
    """A radius rounded down at three decimals; one below 0.001 at three significant digits."""
    if not 0 < radius < 0.001:
        return rounded_down(radius)
    text = rounded_down(radius, 2 - math.floor(math.log10(radius)))
    return f"{Decimal(text).normalize():{'f' if radius >= 1e-6 else ''}}"


def abstention_reason(reason: str, p_lower: float, candidate: str = "") -> str:
    """Why the classifier abstains, without the names of the procedure's variables.

    `p_lower` is the proven share, `candidate` the name of the candidate class, "" where it is not
    known. Reasons that do not speak of a vote share stay as they are.
    """
    found = _UNDECIDED.fullmatch(reason.rstrip("."))
    if found is None:
        return reason
    votes, total, undecided, advice = int(found[1]), int(found[2]), int(found[3] or 0), found[4]
    named = candidate or "the candidate"
    text = (
        f"{votes:,} of {total:,} noisy copies ({rounded_down(100 * votes / total, 2)} %) vote for "
        f"{named}, the class chosen by the first draws"
    )
    if not math.isnan(p_lower):
        share = rounded_down(percentage(p_lower), 2)
        text += f". This proves a share of at least {share} %, and more than 50 % is needed"
    if advice.startswith("the logits of undecided"):
        return f"{text}. {undecided:,} have no class: their outputs are too close or no numbers"
    if advice.startswith("no n certifies"):
        return f"{text}. More noisy copies do not help while at most half vote for it"
    needed = _NEEDED.match(advice)
    if needed is not None:
        return f"{text}. About {int(needed[1]):,} noisy copies would be enough at this share"
    return f"{text}. The stopping rule ended the sampling early" if "early" in advice else text


def claims_a_region(certification: Certification) -> bool:
    """Whether a region is certified for somebody, be it for frozen noise only."""
    holds = Guarantee(certification.guarantee) in (Guarantee.DEPLOYED, Guarantee.FROZEN)
    return holds and certification.radius > 0


def region_sentences(
    certification: Certification, shape: tuple[int, int, int], change: int = 8
) -> list[str]:
    """The region's shape, and where it covers a change of `change`/255; [] if nobody is covered.

    `shape` (C, H, W) is the image's.
    """
    if not claims_a_region(certification):
        return []
    sentences = [_region(certification), _patches(certification, shape, change)]
    whom = restriction(certification)
    return [f"{whom}: {text}" if whom else _capital(text) for text in sentences]


def restriction(certification: Certification) -> str:
    """What the region is restricted to, "" if to nothing."""
    if certification.guarantee == Guarantee.FROZEN:
        return "For frozen noise only"
    return (
        "Among images on the grid only"
        if certification.certificate == GridNoise.certificate
        else ""
    )


def largest_patch(certification: Certification, shape: tuple[int, int, int], change: int) -> str:
    """The largest patch in which a change of `change`/255 is covered, wherever the patch lies."""
    region = certification.radius, certification.axes, shape, change / 255
    if covers_all_values(*region):
        return "the whole image"
    side, _ = covered_sides(*region)
    return f"{side} x {side} pixels" if side else "not even one pixel"


def percent(share: float) -> str:
    """A share rounded down at one decimal; one that is not 0 does not become 0."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{rounded_down(percentage(share), 1)} %"


def _region(certification: Certification) -> str:
    if certification.bands is not None:
        bands = certification.bands
        parts = (
            f"along changes of colour {radius_text(bands.chroma)}",
            f"along brightness that is constant in blocks of {bands.block} pixels "
            f"{radius_text(bands.smooth)}",
            f"along detail {radius_text(bands.detail)}",
        )
        there = [part for part, count in zip(parts, bands.dimensions, strict=True) if count]
        return (
            f"the certified region is an ellipsoid with these semi-axes: {', '.join(there)}. What "
            "is said of patches is of the ball inside."
        )
    if certification.axes is None or is_ball(certification.radius, certification.axes):
        return "the certified region is the ball."
    low, middle, high = sigma_statistics(certification.axes)
    region = "the ball and an ellipsoid" if low < certification.radius else "an ellipsoid"
    return (
        f"the certified region is {region} with semi-axes of {radius_text(low)} to "
        f"{radius_text(high)}, {radius_text(middle)} in the geometric mean. Where they are long, "
        "more change is covered."
    )


def _patches(certification: Certification, shape: tuple[int, int, int], change: int) -> str:
    """Up to which patch a change is covered, everywhere and at least somewhere."""
    region = certification.radius, certification.axes, shape, change / 255
    if covers_all_values(*region):
        return f"a change of up to {change}/255 in every value of the image at once is covered."
    everywhere, somewhere = covered_sides(*region)
    if not somewhere:
        return f"a change of {change}/255 in one pixel is not covered."
    text = f"a change of up to {change}/255 is covered in"
    if not everywhere:
        return f"{text} some patches of up to {somewhere} x {somewhere} pixels, not everywhere."
    text = f"{text} any one patch of {everywhere} x {everywhere} pixels"
    if somewhere > everywhere:
        text += f", and in some of up to {somewhere} x {somewhere}"
    return f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
