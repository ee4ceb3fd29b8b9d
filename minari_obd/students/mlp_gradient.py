"""The gradient of one inner step of an MLP student and its reverse, written out as matrix products."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minari_obd.students.gradient import AutogradGradient, Pairs, StepGradient
from minari_obd.students.networks import MLP, SoftmaxMLP, Student

__all__ = ["MLPGradient", "gradient_of"]


@dataclass
class _Kept:
    weights: list[Tensor]
    """W_1 ... W_{L+1}, in the products' type."""
    features: list[Tensor]
    """h_0 ... h_L, where h_0 are the states."""
    deltas: list[Tensor]
    """dL/dz_1 ... dL/dz_{L+1}."""
    output: Tensor
    """y."""
    error: Tensor
    """y - Y."""
    scale: Tensor | float
    """2 w / (B A)."""
    pairs: Pairs


@dataclass(frozen=True)
class MLPGradient:
    r"""The gradient of an MLP student, with its reverse written out.

    With z_l = h_{l-1} W_l + b_l, h_l = relu(z_l), y = phi(z_{L+1}) and c = 2 w / (B A), the step needs

        delta_{L+1} = c (y - Y) phi'          delta_l = 1[h_l > 0] (delta_{l+1} W_{l+1}^T)
        dL/dW_l = h_{l-1}^T delta_l           dL/db_l = sum_B delta_l

    and its reverse along V (for W) and v (for b)

        R{z_l} = h_{l-1} V_l + R{h_{l-1}} W_l + v_l        R{h_l} = 1[h_l > 0] R{z_l}        R{y} = phi' R{z_{L+1}}
        R{delta_{L+1}} = c R{y} (phi' - 2 y (y - Y))  for phi = tanh, phi' = 1 - y^2;  c R{y} for the identity
        R{delta_l} = 1[h_l > 0] (R{delta_{l+1}} W_{l+1}^T + delta_{l+1} V_{l+1}^T)
        R{dL/dW_l} = R{h_{l-1}}^T delta_l + h_{l-1}^T R{delta_l}        R{dL/db_l} = sum_B R{delta_l}
        R{dL/dX} = R{delta_1} W_1^T + delta_1 V_1^T        R{dL/dY} = -c R{y}
        R{dL/dw} = 2 / (B A) sum_A (y - Y) R{y}

    For y = 2 p - 1 with p = softmax(z_{L+1}), the derivative is the matrix J = 2 (diag p - p p^T) in place of phi'.
    With e = c (y - Y) and R{e} = c R{y},

        delta_{L+1} = J e        R{y} = J R{z_{L+1}}        R{delta_{L+1}} = J R{e} + R{y} (e - p^T e) - p (R{y}^T e)

    These are three products per layer for the step and six for its reverse. As in torch, relu's derivative at 0 is 0.
    """

    output: str = "tanh"
    """What phi is: ``tanh``, ``softmax`` or ``identity``."""
    products: torch.dtype | None = None
    """Type of the matrix products; the parameters' type if not given."""

    def gradient(self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool) -> tuple[list[Tensor], _Kept | None]:
        """See :class:`StepGradient`."""
        return self._forward(parameters, pairs, keep, None)

    def descend(
        self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool, rate: float
    ) -> tuple[list[Tensor], _Kept | None]:
        """See :class:`StepGradient`."""
        return self._forward(parameters, pairs, keep, rate)

    def _forward(
        self, parameters: Sequence[Tensor], pairs: Pairs, keep: bool, rate: float | None
    ) -> tuple[list[Tensor], _Kept | None]:
        own = parameters[0].dtype
        low = self.products or own
        states = pairs.states
        if states.dim() < parameters[0].dim():
            states = states.expand(len(parameters[0]), -1, -1)
        weights = [w.to(low) for w in parameters[::2]]
        biases = parameters[1::2]
        features = [states.to(low)]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            features.append(_affine(bias.to(low), features[-1], weight).relu_())
        output = _narrow(features[-1], weights[-1]).to(own) + biases[-1]
        if self.output == "tanh":
            output = output.tanh_()
        elif self.output == "softmax":
            output = 2.0 * output.softmax(-1) - 1.0
        error = output - pairs.actions
        scale: Tensor | float = 2.0 / error.shape[-2:].numel()
        if pairs.weights is not None:
            scale = scale * pairs.weights[..., None]
        delta = scale * error
        if self.output == "tanh":
            delta = delta * (1.0 - output * output)
        elif self.output == "softmax":
            delta = _turn(output, delta)
        deltas = [delta.to(low)]
        for layer in range(len(features) - 1, 0, -1):
            deltas.append(_mask(torch.matmul(deltas[-1], weights[layer].mT), features[layer]))
        deltas.reverse()
        found = []
        for layer, (inputs, delta) in enumerate(zip(features, deltas, strict=True)):
            is_last = layer == len(deltas) - 1
            weight, bias = parameters[2 * layer], delta.sum(-2, keepdim=True)
            if rate is None:
                product = torch.matmul(delta.mT, inputs).mT if is_last else torch.matmul(inputs.mT, delta)
                found += [product.to(own), bias.to(own)]
                continue
            if is_last:
                found.append(torch.sub(weight, torch.matmul(delta.mT, inputs).mT, alpha=rate))
            elif weight.dtype == low:
                found.append(_affine(weight, inputs.mT, delta, alpha=-rate))
            else:
                found.append(torch.sub(weight, torch.matmul(inputs.mT, delta), alpha=rate))
            found.append(torch.sub(biases[layer], bias, alpha=rate))
        kept = _Kept(weights, features, deltas, output, error, scale, pairs) if keep else None
        return found, kept

    def reverse(self, kept: _Kept, direction: Sequence[Tensor], adjoint: Sequence[Tensor], scale: float = 1.0) -> Pairs:
        """See :class:`StepGradient`."""
        low, own = kept.weights[0].dtype, kept.output.dtype
        weights, features, deltas = kept.weights, kept.features, kept.deltas
        moves = [v.to(low) for v in direction[::2]]
        moved: list[Tensor] = []  # R{h_1} ... R{h_L}
        for layer, bias in enumerate(direction[1:-2:2]):
            change = _affine(bias.to(low), features[layer], moves[layer])
            if layer:
                _add_product(change, moved[-1], weights[layer])
            moved.append(_mask(change, features[layer + 1]))
        output = _narrow(features[-1], moves[-1]).to(own) + direction[-1]
        output += _narrow(moved[-1], weights[-1]).to(own)
        slope = 1.0 - kept.output * kept.output if self.output == "tanh" else None
        if slope is not None:
            output *= slope
        elif self.output == "softmax":
            output = _turn(kept.output, output)
        actions = -kept.scale * output
        change = -actions if slope is None else actions * (2.0 * kept.output * kept.error - slope)
        if self.output == "softmax":
            chances, error = 0.5 * (1.0 + kept.output), kept.scale * kept.error
            change = _turn(kept.output, change) + output * (error - (chances * error).sum(-1, keepdim=True))
            change = change - chances * (output * error).sum(-1, keepdim=True)
        actions = actions * scale
        turned = [change.to(low)]  # R{delta_{L+1}} ... R{delta_1}
        for layer in range(len(features) - 1, 0, -1):
            passed = torch.matmul(turned[-1], weights[layer].mT)
            _add_product(passed, deltas[layer], moves[layer].mT)
            turned.append(_mask(passed, features[layer]))
        turned.reverse()
        states = torch.matmul(turned[0], weights[0].mT)
        states = _add_product(states, deltas[0], moves[0].mT).to(own) * scale
        # From here on the adjoint changes, and it may be the direction itself.
        narrow = torch.matmul(deltas[-1].mT, moved[-1]) + torch.matmul(turned[-1].mT, features[-1])
        adjoint[-2].add_(narrow.mT, alpha=scale)
        for layer, change in enumerate(turned):
            adjoint[2 * layer + 1].add_(change.sum(-2, keepdim=True), alpha=scale)
            if layer < len(turned) - 1:
                _accumulate(adjoint[2 * layer], features[layer], change, scale)
                if layer:
                    _accumulate(adjoint[2 * layer], moved[layer - 1], deltas[layer], scale)
        given, by_weight = kept.pairs, None
        if given.weights is not None:
            by_weight = (2.0 * scale / output.shape[-2:].numel()) * (kept.error * output).sum(-1)
            by_weight = _like(by_weight, given.weights)
        return Pairs(_like(states, given.states), _like(actions, given.actions), by_weight)

    def bytes_kept(self, parameters: Sequence[Tensor], count: int) -> int:
        """See :class:`StepGradient`."""
        size = torch.finfo(self.products or parameters[0].dtype).bits // 8
        values = sum(p.numel() for p in parameters)
        own = values * parameters[0].element_size() + (values * size if self.products else 0)
        return own + 2 * sum(b.numel() for b in parameters[1:-1:2]) * count * size


def gradient_of(student: Student, products: torch.dtype | None = None) -> StepGradient:
    """Return the fastest available gradient for a student.

    Args:
        student: the network.
        products: type of an MLP's matrix products. Other networks compute in their parameters' type.
    """
    if type(student) in (MLP, SoftmaxMLP):
        assert isinstance(student, MLP)
        return MLPGradient(student.output, products)
    return AutogradGradient(student)


def _turn(output: Tensor, values: Tensor) -> Tensor:
    """J v for the softmax whose output is y = 2 p - 1."""
    chances = 0.5 * (1.0 + output)
    return 2.0 * chances * (values - (chances * values).sum(-1, keepdim=True))


def _narrow(features: Tensor, weight: Tensor) -> Tensor:
    # Actions have few dimensions, and CPU products with few columns are four times slower than with few rows.
    return torch.matmul(weight.mT, features.mT).mT


def _mask(values: Tensor, features: Tensor) -> Tensor:
    """Multiply ``values`` by features > 0, in place and in one pass, by the kernel that relu's backward calls."""
    return torch.ops.aten.threshold_backward.grad_input(values, features, 0, grad_input=values)


def _affine(bias: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0) -> Tensor:
    if right.dim() == 2:
        return torch.addmm(bias, left, right, alpha=alpha)
    return torch.baddbmm(bias, left, right, alpha=alpha)


def _add_product(total: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0) -> Tensor:
    return total.addmm_(left, right, alpha=alpha) if total.dim() == 2 else total.baddbmm_(left, right, alpha=alpha)


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale left^T right to ``total``."""
    if total.dtype == left.dtype:
        _add_product(total, left.mT, right, alpha=scale)
    else:
        total.add_(torch.matmul(left.mT, right), alpha=scale)


def _like(derivatives: Tensor, given: Tensor) -> Tensor:
    """Sum derivatives over students if the students share ``given``."""
    return derivatives if derivatives.dim() == given.dim() else derivatives.sum(0)
