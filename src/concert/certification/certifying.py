"""The certification of one image (the paper's Algorithm 2, Cohen et al. 2019).

It follows the pseudo-code: the candidate class comes from n0 selection draws, its vote share is
bounded from below on n fresh draws, and the bound becomes a region. Two things differ from the
paper: the region's guarantee is stated, and the paper's own radius step is not used, because it is
unsound (docs/errata.md).
"""

from __future__ import annotations

import math

from concert import certificates
from concert.certification.procedure import Procedure
from concert.certification.selection import select
from concert.certification.tally import Tally
from concert.records.record import ABSTAIN, Certification
from concert.sampling.sampler import Sampler
from concert.sampling.votes import Request
from concert.sampling.work import Steps
from concert.streams import Domain, Stream


def certification(sampler: Sampler, index: int, procedure: Procedure) -> Steps[Certification]:
    """The certification of image number `index`, whose draws are asked for as they are needed."""
    rule, noise = procedure.rule, sampler.noise
    certificate = procedure.certificate_of(noise)
    chosen = yield from select(noise, Stream(procedure.seed, Domain.SELECT, index), procedure)
    claims = noise.claims(certificate, chosen.sigma_map, chosen.floor)

    stages = rule.stages(procedure.n, sampler.batch_size)
    tally = Tally(claims, stages, procedure.alpha, chosen.candidate, sampler.num_classes)
    stream = Stream(procedure.seed, Domain.CERTIFY, index)
    for size in stages.sizes:
        votes = yield Request(stream, size, start=tally.n, floor=chosen.floor)
        tally.add(votes, rule)
        if tally.finished:
            break
    region, p_lower = tally.region()
    reason = ""
    if region.radius <= 0:
        region = certificates.empty(region.certificate, region.guarantee, math.prod(sampler.shape))
    if not tally.decided:
        reason = tally.reason()
    low, middle, high = certificates.sigma_statistics(chosen.sigma_map)
    return Certification(
        label=ABSTAIN if reason else chosen.candidate,
        radius=region.radius,
        p_lower=p_lower,
        guarantee=region.guarantee,
        certificate=region.certificate,
        axes=region.axes,
        proxy_volume=region.proxy_volume,
        log_volume=region.log_volume,
        n_used=tally.n,
        votes=tuple(int(count) for count in tally.counts),
        seed=procedure.seed,
        index=index,
        candidate=chosen.candidate,
        sigma_min=low,
        sigma_geomean=middle,
        sigma_max=high,
        reason=reason,
        bands=region.bands,
    )
