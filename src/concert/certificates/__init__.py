"""From bounds on vote shares to regions in which the prediction cannot change, pure functions."""

from concert.certificates.input_dependent import input_dependent_radius, worst_case_probability
from concert.certificates.kinds import (
    Claim,
    algorithm2,
    banded,
    frozen,
    isotropic,
    isotropic_grid,
    isotropic_radius,
    lipschitz,
    normalized_radius,
    queried_ball,
    queried_ellipsoid,
    sigma_statistics,
    static,
)
from concert.certificates.regions import Guarantee, Region, Regions, empty, union

__all__ = [
    "Claim",
    "Guarantee",
    "Region",
    "Regions",
    "algorithm2",
    "banded",
    "empty",
    "frozen",
    "input_dependent_radius",
    "isotropic",
    "isotropic_grid",
    "isotropic_radius",
    "lipschitz",
    "normalized_radius",
    "queried_ball",
    "queried_ellipsoid",
    "sigma_statistics",
    "static",
    "union",
    "worst_case_probability",
]
