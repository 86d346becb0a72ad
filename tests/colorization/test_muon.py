import pytest
import torch

from concert.colorization.muon import Muon, orthogonalize


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6), (96, 864)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_orthogonalised_matrices_keep_their_directions(shape, scale) -> None:
    u, _, v = torch.linalg.svd(matrix(*shape), full_matrices=False)
    values = torch.linspace(0.2, 1, min(shape))
    result = orthogonalize(scale * u @ values.diag() @ v)
    diagonal = (u.T @ result @ v.T).diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.25
    torch.testing.assert_close(result, u @ diagonal.diag() @ v, rtol=0, atol=1e-3)


def test_the_first_step_by_hand() -> None:
    weight = torch.nn.Parameter(matrix(6, 4 * 9).reshape(6, 4, 3, 3))
    before = weight.detach().clone()
    weight.grad = matrix(6, 4 * 9, seed=1).reshape(6, 4, 3, 3)
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    optimizer.step()
    change = orthogonalize(weight.grad.flatten(1)).reshape(6, 4, 3, 3)
    torch.testing.assert_close(weight.detach(), 0.95 * before - 0.1 * change)


def test_a_parameter_without_gradient_keeps_still() -> None:
    weight = torch.nn.Parameter(matrix(3, 3))
    before = weight.detach().clone()
    Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert torch.equal(weight, before)


def test_a_linear_map_is_recovered() -> None:
    target, inputs = matrix(5, 7), matrix(7, 200, seed=1)
    weight = torch.nn.Parameter(torch.zeros(5, 7))
    optimizer = Muon([weight], lr=0.3, momentum=0.9, weight_decay=0.0)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 150)
        optimizer.zero_grad()
        ((weight - target) @ inputs).square().mean().backward()
        optimizer.step()
    assert (weight - target).norm() < 0.05 * target.norm()
