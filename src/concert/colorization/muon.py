"""Muon, an optimizer for weight matrices.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
kellerjordan.github.io/posts/muon.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Roughly U V^T of a matrix U S V^T: singular values between 0.6 and 1.2.

    A quintic Newton-Schulz iteration, which costs only matrix products.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised: every direction of a weight matrix moves equally far.

    Convolution kernels (out, in, height, width) are matrices (out, in * height * width). It is
    meant for hidden layers: biases, norms, the first and the last layer are for Adam. PyTorch's own
    Muon refuses convolutions.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients; parameters without one keep still."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"]).flatten(1)
                change = orthogonalize(ahead) * max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(change.view(parameter.shape), alpha=group["lr"])
