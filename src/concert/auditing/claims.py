"""The regions that a certification log claims, without drawing the certifying noise again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from scipy.special import ndtr
from torch import Tensor

from concert.certificates import Guarantee, Region, sigma_statistics
from concert.certification.procedure import Procedure
from concert.certification.selection import select
from concert.errors import ConcertError
from concert.sampling.sampler import Sampler
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream, source_name

# The share at which Phi^-1 is 1.
UNIT_SHARE: Final = float(ndtr(1.0))
# Relative; two float32 engines agree on a sigma map to about 1e-6.
MAP_TOLERANCE: Final = 1e-4


def claimed_region(
    smoothed: SmoothedClassifier, image: Tensor, row: Mapping[str, Any], identity: Mapping[str, Any]
) -> Region:
    """The certified region of an image (C, H, W) from its row in a log and the log's identity.

    The row has the ball. An ellipsoid has the shape of a sigma map that depends on the selection
    draws alone, which are repeated here; its size is the row's proxy volume, the geometric mean of
    its semi-axes. An ellipsoid smaller than the ball, which the row does not tell, is left out.
    Raises ConcertError where the map is not the one that the row was written for.
    """
    certificate, radius = str(row["certificate"]), float(row["radius"])
    guarantee, proxy_volume = Guarantee(row["guarantee"]), float(row["proxy_volume"])
    axes, bands = None, None
    if proxy_volume > radius:
        unit = _unit_ellipsoid(smoothed.sampler(image.shape), image, row, identity)
        factor = proxy_volume / unit.proxy_volume
        axes = None if unit.axes is None else unit.axes * factor
        bands = None if unit.bands is None else unit.bands.scaled(factor)
    return Region(certificate, guarantee, radius, image.numel(), axes, bands)


def _unit_ellipsoid(
    sampler: Sampler, image: Tensor, row: Mapping[str, Any], identity: Mapping[str, Any]
) -> Region:
    """The row's ellipsoid as it would be for the vote share at which Phi^-1 is 1."""
    certificate, index = str(row["certificate"]), int(row["idx"])
    noise = sampler.noise
    if certificate not in noise.certificates:
        raise ConcertError(
            f"image {index} has certificate '{certificate}', but {noise.kind} noise offers "
            f"{', '.join(noise.certificates)}: audit the run that the log is of"
        )
    if noise.needs_floor(certificate) and identity["noise_source"] != source_name(sampler.device):
        raise ConcertError(
            f"the log's ellipsoids rest on draws from {identity['noise_source']}, which "
            f"{sampler.device} cannot repeat: choose the --accelerator that certified"
        )
    procedure = Procedure(
        n0=int(identity["n0"]),
        n=int(identity["n"]),
        alpha=float(identity["alpha"]),
        seed=int(identity["seed"]),
        certificate=certificate,
        n_select=int(identity.get("n_select", 1)),
    )
    stream = Stream(procedure.seed, Domain.SELECT, index)
    chosen = sampler.run(image, select(noise, stream, procedure))
    _check_map(chosen.sigma_map, row)
    claims = noise.claims(certificate, chosen.sigma_map, chosen.floor)
    regions = [claim.region(UNIT_SHARE) for claim in claims]
    return next(region for region in regions if region.axes is not None or region.bands is not None)


def _check_map(sigma_map: Tensor, row: Mapping[str, Any]) -> None:
    rebuilt = torch.tensor(sigma_statistics(sigma_map), dtype=torch.float64)
    logged = torch.tensor(
        [float(row[name]) for name in ("sigma_min", "sigma_geomean", "sigma_max")],
        dtype=torch.float64,
    )
    if not torch.allclose(rebuilt, logged, rtol=MAP_TOLERANCE, atol=0.0):
        raise ConcertError(
            f"image {row['idx']}: the sigma map is not the one certified (geometric mean "
            f"{float(rebuilt[1]):.6g}, in the log {float(logged[1]):.6g}): audit with the settings "
            "and the version of concert that certified"
        )
