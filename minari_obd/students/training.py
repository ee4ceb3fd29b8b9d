"""The inner loop: behavioural cloning from pairs, as a differentiable function of the pairs."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minari_obd.errors import SettingError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.students.gradient import Pairs, StepGradient
from minari_obd.students.kernel import KernelStudent
from minari_obd.students.mlp_gradient import MLPGradient, gradient_of
from minari_obd.students.networks import Student
from minari_obd.students.optimisers import SGD, InnerOptimiser, Memory, optimiser_of

__all__ = ["MEMORY_LIMIT", "mean_squared_error", "squared_error", "train_students"]

MEMORY_LIMIT = 1 << 30
"""Bytes that the reverse pass may keep from the forward pass. Anything beyond is recomputed."""


def squared_error(actions: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared difference of actions (E, B, A) from wanted ones, averaged over dimensions, shape (E, B)."""
    return (actions - wanted).square().mean(dim=-1)


def mean_squared_error(student: Student, parameters: Sequence[Tensor], states: Tensor, actions: Tensor) -> Tensor:
    """Return the squared action error of E students, averaged over action dimensions only, shape (E, B)."""
    return squared_error(student.apply(parameters, states), actions)


def train_students(
    student: Student,
    parameters: Sequence[Tensor],
    states: Tensor,
    actions: Tensor,
    protocol: StudentProtocol,
    *,
    differentiable: bool = False,
    weights: Tensor | None = None,
    learning_rates: Tensor | None = None,
    window: int | None = None,
    products: torch.dtype | None = None,
    memory_limit: int = MEMORY_LIMIT,
    batches: Iterator[Tensor] | None = None,
    after_step: Callable[[], object] | None = None,
) -> list[Tensor]:
    """Train E students on the same pairs by gradient descent on the mean squared action error.

    theta_{t+1} = theta_t - lr * grad L(theta_t), with L averaged over pairs and action dimensions, for
    ``protocol.steps`` steps. With ``differentiable`` the result is part of torch's autograd graph: any function of it
    has the exact gradient with respect to ``states``, ``actions``, ``weights``, ``learning_rates`` and the initial
    parameters. The reverse pass goes step by step, by hand for MLP students and by autograd for others. It cannot be
    differentiated itself. Infinitely wide students are solved in closed form, and make no steps.

    Args:
        student: the network.
        parameters: initial parameters of E students.
        states: normalised states of the pairs, shape (M, S), or (E, M, S) if every student has its own.
        actions: actions of the pairs on [-1, 1], shape (M, A) or (E, M, A).
        protocol: steps, optimiser and its settings.
        differentiable: make the result differentiable.
        weights: weight of each pair in the loss, shape (M,) or (E, M).
        learning_rates: used instead of the protocol's; one for all steps, shape (), or one per step, shape (steps,).
        window: differentiate only through the last ``window`` steps, as if the parameters before them were constant
            (truncated backpropagation through time); through all steps if not given.
        products: type of an MLP's matrix products, such as ``torch.bfloat16``; the parameters' type if not given.
        memory_limit: bytes that may be kept from the forward pass. If they do not suffice for every step, only every
            k-th step's parameters are kept, and k steps at a time are recomputed. The result is bit-identical. The
            parameters of every k-th step are not counted in the limit.
        batches: row indices for each step; all rows if not given.
        after_step: called after each step, for a progress bar. Recomputed steps call it as well.

    Returns:
        The trained parameters, in the order of ``parameters``.
    """
    if isinstance(student, KernelStudent):
        if weights is not None:
            raise SettingError("Infinitely wide students take no weights of pairs; use an MLP.")
        with torch.set_grad_enabled(differentiable):
            solved = student.solve(len(parameters[0]), states, actions)
        if after_step is not None:
            for _ in range(protocol.steps):  # to the end of the bar
                after_step()
        return solved
    if window is not None and window < 1:
        raise SettingError(f"The window is {window}; it must be 1 or more, to differentiate at least the last step.")
    # A single student drops the students' dimension, because the CPU copies transposed operands of batched products.
    is_alone = isinstance(gradient := gradient_of(student, products), MLPGradient) and len(parameters[0]) == 1
    if is_alone:
        parameters = [p[0] for p in parameters]
        states, actions = states.view(states.shape[-2:]), actions.view(actions.shape[-2:])
        weights = None if weights is None else weights.view(weights.shape[-1:])
    pairs = Pairs(states, actions, weights)
    rates = float(protocol.learning_rate) if learning_rates is None else learning_rates.expand(protocol.steps)
    rows = None if batches is None else [next(batches) for _ in range(protocol.steps)] if differentiable else batches
    loop = _Loop(
        gradient=gradient,
        optimiser=optimiser_of(protocol),
        steps=protocol.steps,
        window=protocol.steps if window is None else min(window, protocol.steps),
        memory_limit=memory_limit,
        rows=rows,
        after_step=after_step,
    )
    if differentiable:
        trained = list(_Unroll.apply(loop, states, actions, weights, rates, *parameters))
    else:
        with torch.no_grad():
            start = _Position(0, list(parameters), loop.optimiser.start(parameters))
            trained = loop.advance(start, pairs, rates).parameters
    return [p[None] for p in trained] if is_alone else trained


@dataclass
class _Position:
    step: int
    parameters: list[Tensor]
    memory: Memory


@dataclass
class _Trace:
    """What the reverse of one step needs."""

    step: int
    gradients: list[Tensor]
    memory: Memory
    """Memory after the step."""
    kept: Any
    rows: Tensor | None


@dataclass
class _Loop:
    """Steps forward and back. Forward steps can restart from any position and give the same bits."""

    gradient: StepGradient
    optimiser: InnerOptimiser
    steps: int
    window: int
    memory_limit: int
    rows: Any
    after_step: Callable[[], object] | None

    @property
    def is_plain(self) -> bool:
        """Whether the optimiser is plain SGD, so that the gradient makes the update in the same pass."""
        return isinstance(self.optimiser, SGD) and not self.optimiser.momentum

    def advance(
        self,
        position: _Position,
        pairs: Pairs,
        rates: Any,
        stop: int | None = None,
        traces: list[_Trace] | None = None,
    ) -> _Position:
        """Make the steps up to ``stop``. If ``traces`` is given, append what their reverse needs to it."""
        parameters, memory = position.parameters, position.memory
        for t in range(position.step, self.steps if stop is None else stop):
            rows = None if self.rows is None else self.rows[t] if isinstance(self.rows, list) else next(self.rows)
            batch = pairs if rows is None else pairs[rows]
            rate, keep, gradients = _rate(rates, t), traces is not None, []
            if isinstance(rate, float) and self.is_plain:
                parameters, kept = self.gradient.descend(parameters, batch, keep, rate)
            else:
                gradients, kept = self.gradient.gradient(parameters, batch, keep)
                parameters, memory = self.optimiser.step(t, parameters, gradients, memory, rate)
            if traces is not None:
                traces.append(_Trace(t, gradients, memory, kept, rows))
            if self.after_step is not None:
                self.after_step()
        return _Position(self.steps if stop is None else stop, parameters, memory)

    def segments(self, position: _Position, count: int) -> list[int]:
        """Return the first step of each segment that is reversed at once, so that each fits the memory limit."""
        parameters = position.parameters
        copies = 1 if self.is_plain else 2 + len(position.memory)  # parameters, gradients, memory
        each = self.gradient.bytes_kept(parameters, count)
        each += copies * sum(p.numel() * p.element_size() for p in parameters)
        length = max(1, self.memory_limit // each)
        if length < self.window:
            # A position is kept for each segment, so segments shorter than this would need more memory, not less.
            position_bytes = (1 + len(position.memory)) * sum(p.numel() * p.element_size() for p in parameters)
            length = max(length, math.isqrt(self.window * position_bytes // each))
        length = min(self.window, length)
        return list(range(self.steps - self.window, self.steps, length))

    def reverse(self, trace: _Trace, rates: Any, adjoint: list[Tensor], carry: Memory, total: Pairs) -> "_Reversed":
        """Turn ``adjoint``, in place, from derivatives by the parameters after a step into those before it."""
        rate = _rate(rates, trace.step)
        if isinstance(rate, float) and self.is_plain:
            total.add(self.gradient.reverse(trace.kept, adjoint, adjoint, -rate), trace.rows)
            return _Reversed([], None)
        direction, carry, update = self.optimiser.reverse(
            trace.step, trace.gradients, trace.memory, rate, adjoint, carry
        )
        by_rate = None
        if isinstance(rate, Tensor):
            by_rate = -sum(((a * u).sum() for a, u in zip(adjoint, update, strict=True)), torch.zeros_like(rate))
        if self.optimiser.decay:
            for each in adjoint:
                each.mul_(1.0 - rate * self.optimiser.decay)
        total.add(self.gradient.reverse(trace.kept, direction, adjoint), trace.rows)
        return _Reversed(carry, by_rate)


@dataclass
class _Reversed:
    carry: Memory
    by_rate: Tensor | None


class _Unroll(torch.autograd.Function):
    """All steps as one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, loop: _Loop, states: Tensor, actions: Tensor, weights: Tensor | None, rates: Any, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        pairs = Pairs(states, actions, weights)
        position = _Position(0, list(parameters), loop.optimiser.start(parameters))
        position = loop.advance(position, pairs, rates, loop.steps - loop.window)
        starts = loop.segments(position, states.shape[-2] if loop.rows is None else len(loop.rows[0]))
        positions, traces = [position], []
        for stop in starts[1:]:
            position = loop.advance(position, pairs, rates, stop)
            positions.append(position)
        position = loop.advance(position, pairs, rates, traces=traces)
        ctx.loop, ctx.positions, ctx.traces = loop, positions, traces
        ctx.has_rates = isinstance(rates, Tensor)
        # Save the parameters too, so that torch notices if they are changed in place before the reverse.
        ctx.save_for_backward(states, actions, weights, rates if ctx.has_rates else None, *parameters)
        ctx.rates = rates
        return tuple(p.clone() if any(p is q for q in parameters) else p for p in position.parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:  # type: ignore[override]  # torch's convention
        loop: _Loop = ctx.loop
        *given, rates = ctx.saved_tensors[:4]
        rates = rates if ctx.has_rates else ctx.rates
        pairs = Pairs(*given)
        total = pairs.map(torch.zeros_like)
        by_rates = torch.zeros_like(rates) if ctx.has_rates else None
        adjoint = [c.clone(memory_format=torch.contiguous_format) for c in cotangents]
        carry = [[torch.zeros_like(m) for m in part] for part in ctx.positions[-1].memory]
        traces, stop = ctx.traces, loop.steps
        if len(ctx.positions) > 1:
            ctx.traces = None  # so that each segment is freed before the next; a second backward recomputes it
        for position in reversed(ctx.positions):
            if traces is None:
                traces = []
                loop.advance(position, pairs, rates, stop, traces)
            for trace in reversed(traces):
                done = loop.reverse(trace, rates, adjoint, carry, total)
                carry = done.carry
                if by_rates is not None and done.by_rate is not None:
                    by_rates[trace.step] = done.by_rate
            traces, stop, trace = None, position.step, None
        # Nothing before the window is differentiated: initial parameters count only if the window reaches them.
        first = adjoint if loop.window == loop.steps else [None] * len(adjoint)
        return (None, total.states, total.actions, total.weights, by_rates, *first)


def _rate(rates: Any, t: int) -> float | Tensor:
    return rates[t] if isinstance(rates, Tensor) else rates
