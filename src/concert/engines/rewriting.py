"""What a traced network computes, in operations that are faster on a processor.

Both changes leave every logit as it is, up to the order of sums:

- max-pooling of 2 x 2 as three maxima of slices, because torch's also notes where the maxima are;
- convolutions with a few channels less than a multiple of 16, such as 50, get channels of zeros up
  to it, because vectors hold 16 numbers and the odd rest is computed more slowly than all of it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

LANES: Final = 16
# More channels of zeros than this share would cost more than they save.
MOST_ZEROS: Final = 0.25

_POOLING: Final = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
_FUNCTIONS: Final = (functional.max_pool2d, torch.max_pool2d)


def rewritten(network: nn.Module) -> nn.Module:
    """The network, changed in place if it is traced."""
    if not isinstance(network, fx.GraphModule):
        return network
    modules, graph = dict(network.named_modules()), network.graph
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if _pools_halves(node, module):
            with graph.inserting_after(node):
                new = graph.call_function(half_max, (node.args[0],))
            node.replace_all_uses_with(new)
            graph.erase_node(node)
        elif isinstance(module, nn.Conv2d) and (zeros := missing_channels(module)):
            channels = module.out_channels
            with graph.inserting_after(node):
                new = graph.call_function(narrowed, (node, channels))
            node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
            parent, _, name = str(node.target).rpartition(".")
            setattr(network.get_submodule(parent), name, with_zeros(module, zeros))
    network.recompile()
    return network


def is_rewritten(network: nn.Module) -> bool:
    """Whether a network has been changed by `rewritten`."""
    ours = (half_max, narrowed)
    nodes = network.graph.nodes if isinstance(network, fx.GraphModule) else ()
    return any(node.target in ours for node in nodes)


def narrowed(images: Tensor, channels: int) -> Tensor:
    """The first channels of (B, C, H, W)."""
    return images[:, :channels]


def half_max(images: Tensor) -> Tensor:
    """Max-pooling (B, C, H, W) of 2 x 2 with stride 2; what is left of odd sizes is dropped."""
    last = images.permute(0, 2, 3, 1)
    height, width = (size // 2 * 2 for size in last.shape[1:3])
    rows = torch.maximum(last[:, 0:height:2], last[:, 1:height:2])
    return torch.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2]).permute(0, 3, 1, 2)


def missing_channels(convolution: nn.Conv2d) -> int:
    """How many channels of zeros bring a convolution to a multiple of 16; 0 if that is slower."""
    channels = convolution.out_channels
    missing = -channels % LANES
    plain = convolution.groups == 1 and type(convolution) is nn.Conv2d
    return missing if plain and missing <= MOST_ZEROS * (channels + missing) else 0


def with_zeros(convolution: nn.Conv2d, count: int) -> nn.Conv2d:
    """The convolution with `count` output channels more, which are 0."""
    weight, bias = convolution.weight.detach(), convolution.bias
    made = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels + count,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        bias=bias is not None,
        padding_mode=convolution.padding_mode,
        device=weight.device,
        dtype=weight.dtype,
    ).requires_grad_(False)
    made.weight.data = torch.cat([weight, weight.new_zeros(count, *weight.shape[1:])])
    if bias is not None and made.bias is not None:
        made.bias.data = torch.cat([bias.detach(), bias.new_zeros(count)])
    return made.train(convolution.training)


def _pools_halves(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node is max-pooling of 2 x 2 without overlap."""
    if isinstance(module, nn.MaxPool2d):
        given: dict[str, Any] = {name: getattr(module, name) for name in _POOLING}
        return not module.return_indices and _is_half(given)
    if node.op != "call_function" or node.target not in _FUNCTIONS:
        return False
    given = dict(zip(_POOLING, node.args[1:], strict=False)) | dict(node.kwargs)
    if given.pop("return_indices", False):
        return False
    given["stride"] = given.get("stride") or given.get("kernel_size")
    return _is_half(_POOLING | given)


def _is_half(given: dict[str, Any]) -> bool:
    return set(given) == set(_POOLING) and all(
        given[name] in (value, (value, value)) for name, value in _POOLING.items()
    )
