"""Networks of a frozen teacher: fully connected layers as plain tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from minari_obd.errors import DataError

__all__ = [
    "ACTIVATIONS",
    "Layers",
    "apply_layers",
    "check_layers",
    "has_norms",
    "layers_below",
    "layers_of",
    "named_tensors",
]

Layers = list[tuple[Tensor, ...]]
"""Of each layer, float32: weight (out, in) and bias (out,), and gain (out,) and shift (out,) where a layer norm follows
the activation (Ba et al. 2016, arXiv 1607.06450), as in ReBRAC's critics."""


ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "elu": torch.nn.functional.elu}
"""Between a network's layers, by name."""


_PARTS = ("weight", "bias", "gain", "shift")


def apply_layers(layers: Layers, inputs: Tensor, activation: str) -> Tensor:
    """Outputs (B, out) of the network for inputs (B, in); the last layer is linear."""
    between = ACTIVATIONS[activation]
    for weight, bias, *norm in layers[:-1]:
        inputs = between(torch.nn.functional.linear(inputs, weight, bias))
        if norm:
            inputs = torch.nn.functional.layer_norm(inputs, bias.shape, norm[0], norm[1])
    return torch.nn.functional.linear(inputs, *layers[-1])


def check_layers(name: str, layers: Layers, inputs: int, outputs: int) -> None:
    """Refuse layers that are not a network from ``inputs`` to ``outputs``.

    Raises:
        DataError: tensors that are missing, do not fit together, are not of float32, or not finite.
    """
    fits = bool(layers) and len(layers[-1]) == 2 and all(len(layer) in (2, 4) for layer in layers)
    if fits:
        chain = [inputs, *(layer[1].numel() for layer in layers)]
        fits = chain[-1] == outputs and all(
            weight.shape == (o, i) and all(part.shape == (o,) for part in rest)
            for (weight, *rest), i, o in zip(layers, chain[:-1], chain[1:], strict=True)
        )
    if not fits or any(part.dtype != torch.float32 for layer in layers for part in layer):
        raise DataError(
            f"The teacher's {name} does not map {inputs} inputs to {outputs} outputs in float32; "
            f"its layers have shapes {[tuple(layer[0].shape) for layer in layers if layer]}."
        )
    if not all(torch.isfinite(part).all() for layer in layers for part in layer):
        raise DataError(f"The teacher's {name} has weights that are not finite; its training has diverged.")


def has_norms(layers: Layers) -> bool:
    """Whether a layer norm follows any of the layers."""
    return any(len(layer) > 2 for layer in layers)


def named_tensors(prefix: str, layers: Layers) -> dict[str, Tensor]:
    """Tensors by the names that :func:`layers_below` reads."""
    return {
        f"{prefix}/{i}/{part}": tensor.detach().cpu().contiguous()
        for i, layer in enumerate(layers)
        for part, tensor in zip(_PARTS, layer, strict=False)
    }


def layers_below(prefix: str, tensors: Mapping[str, Tensor]) -> Layers:
    """Read the layers that :func:`named_tensors` named.

    Raises:
        KeyError: a tensor is missing.
    """
    count = sum(name.startswith(f"{prefix}/") and name.endswith("/weight") for name in tensors)
    layers = []
    for i in range(count):
        is_normed = any(f"{prefix}/{i}/{part}" in tensors for part in _PARTS[2:])
        layers.append(tuple(tensors[f"{prefix}/{i}/{part}"] for part in _PARTS[: 4 if is_normed else 2]))
    return layers


def layers_of(module: torch.nn.Module) -> Layers:
    """Copy a ReLU network's layers in their order, without the one that a Gaussian policy has for its deviation."""
    layers: Layers = []
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear | torch.nn.LayerNorm) and not name.endswith("_logstd"):
            tensors = part.weight.detach().cpu().clone(), part.bias.detach().cpu().clone()
            if isinstance(part, torch.nn.Linear):
                layers.append(tensors)
            else:  # it belongs to the layer before
                layers[-1] = (*layers[-1], *tensors)
    return layers
