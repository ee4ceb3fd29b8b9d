"""Kernel start: pairs that teach infinitely wide students, whose cloning has a closed form."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minari_obd.distiller.data import OuterData
from minari_obd.distiller.step import joined, jointly
from minari_obd.settings.protocols import SOFTMAX, StudentProtocol
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.students.kernel import FURTHEST, Kernel, latent, regression
from minari_obd.students.networks import squash
from minari_obd.students.training import squared_error
from minari_obd.support.progress import progress_bar
from minari_obd.support.streams import Stream

__all__ = ["KernelStart", "KernelState"]

_RATE = 0.01
_FIRST = 0.98
"""Largest action that a pair begins with; closer to the bounds, tanh hardly has a slope."""
_DEPTH = 3
"""Most hidden layers of the students."""
_VISITORS = 4
_ROLLOUTS = 12
"""How often students are followed, evenly over the steps."""
_SHOWN_EVERY = 50


@dataclass
class KernelState:
    """Everything that changes on the kernel's way. Random numbers are drawn from (seed, step)."""

    pairs: list[Tensor]
    """States (M, S), and actions before tanh or softmax (M, A)."""
    moments: list[Tensor]
    """Adam's running means of the gradient and of its square, of the states and of the actions."""
    visits: list[Tensor] = field(default_factory=list)
    """States that students visited (V, S) and the wanted actions (V, A); none where they are not asked for."""
    step: int = 0

    def adam(self) -> torch.optim.Adam:
        """Return what moves the pairs, and changes the moments with them."""
        adam = torch.optim.Adam([each.requires_grad_() for each in self.pairs], _RATE)
        for pair, mean, square in zip(self.pairs, self.moments[::2], self.moments[1::2], strict=True):
            adam.state[pair] = {"step": torch.tensor(float(self.step)), "exp_avg": mean, "exp_avg_sq": square}
        return adam


@dataclass(frozen=True)
class KernelStart:
    """Gradient descent on pairs through the closed-form cloning of infinitely wide students.

    Gradient flow on the squared error before tanh takes such a student from zero to kernel regression. At 256 pairs, a
    step costs a small part of one through a hundred steps of cloning, so the pairs come far in seconds. The idea is
    that of kernel inducing points (Nguyen et al. 2021, 2011.00050), here with the targets' weights and costs. Real
    students follow a kernel only roughly, so each step draws another one: pairs that teach all of these also teach
    networks.
    """

    protocol: StudentProtocol
    settings: DistillationRecipe

    def begin(self, states: Tensor, actions: Tensor) -> KernelState:
        """Return where the kernel's way begins.

        Args:
            states: normalised states of the pairs, shape (M, S).
            actions: their actions on [-1, 1], shape (M, A).
        """
        pairs = [states.clone(), latent(actions, self._output, _FIRST)]
        return KernelState(pairs, [torch.zeros_like(each) for each in pairs for _ in range(2)])

    def candidates(
        self,
        state: KernelState,
        data: OuterData,
        scale: float,
        *,
        progress: bool,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Move pairs, and show them on the way: narrow students do not follow kernels as far as wide ones.

        Args:
            state: where to go on; every step changes it.
            data: what students should do, and where they go, if that counts.
            scale: of the cost, where errors have one.
            progress: show a bar.
            is_interrupted: whether to end after the present step.

        Yields:
            Every fiftieth step, and the last, with the states and actions after it.
        """
        is_visited = data.visited is not None
        last = self.settings.steps_through_kernels(len(state.pairs[0]), self.protocol, is_visited=is_visited)
        adam = state.adam()
        with progress_bar(last, "kernel start", show=progress, done=state.step) as bar:
            while state.step < last and not is_interrupted():
                step = state.step
                if data.visited is not None and step % max(1, last // _ROLLOUTS) == 0:
                    state.visits = self._follow(state.pairs, data, step, state.visits)
                adam.param_groups[0]["lr"] = _RATE * 0.5 * (1.0 + math.cos(math.pi * step / last))
                self._step(state.pairs, adam, data, scale, step, state.visits)
                state.step += 1
                bar.update()
                if not state.step % _SHOWN_EVERY or state.step == last:
                    states, outputs = (each.detach() for each in state.pairs)
                    yield state.step, (states.clone(), squash(outputs, self._output))

    def seconds_per_step(self, states: Tensor, actions: Tensor, data: OuterData) -> float:
        """Measure two steps from such pairs, after one that warms up."""
        state, begun = self.begin(states, actions), 0.0
        pairs, adam = state.pairs, state.adam()
        for step in range(3):
            begun = time.perf_counter() if step == 1 else begun
            self._step(pairs, adam, data, 0.0, step)
        float(pairs[0].detach().sum())  # waits for the device
        return (time.perf_counter() - begun) / 2

    def _follow(self, pairs: list[Tensor], data: OuterData, step: int, before: list[Tensor]) -> list[Tensor]:
        """Return the states that students of these pairs visit and the wanted actions, after those of earlier ones."""
        assert data.visited is not None
        students = [Kernel.draw(_DEPTH, data.seed, step, number) for number in range(_VISITORS)]

        def act(states: Tensor) -> Tensor:
            said = [regression(pairs[0], pairs[1], rows, each) for rows, each in zip(states, students, strict=True)]
            return squash(torch.stack(said), self._output)

        with torch.no_grad():
            new = data.visited.visit(act, _VISITORS, data.seed, step)
        most = data.visited.settings.rounds * len(new[0])
        return [torch.cat(each)[-most:] for each in zip(before, new, strict=True)] if before else list(new)

    def _step(
        self,
        pairs: list[Tensor],
        adam: torch.optim.Optimizer,
        data: OuterData,
        scale: float,
        step: int,
        visits: Sequence[Tensor] = (),
    ) -> None:
        """Move the pairs by one step of Adam."""
        batch = data.batch(self.settings.kernel_batch, step, visits, stream=Stream.KERNEL_BATCHES)
        student = Kernel.draw(_DEPTH, data.seed, step)
        adam.zero_grad()
        self._loss(pairs, data, batch, scale, student).backward()
        adam.step()
        if self._output == "tanh":
            with torch.no_grad():
                pairs[1].clamp_(-FURTHEST, FURTHEST)

    def _loss(self, pairs: list[Tensor], data: OuterData, batch: list[Tensor], scale: float, student: Kernel) -> Tensor:
        """Return the student's weighted error on a batch, as the outer loop counts it."""
        states, wanted, weights = batch
        found = []
        for size in (*self.settings.nested, len(pairs[0])):
            actions = squash(regression(pairs[0][:size], pairs[1][:size], states, student), self._output)[None]
            squared = (weights * squared_error(actions, wanted)).mean()
            cost = None if data.cost is None else (weights * data.cost(states, actions, wanted)).mean()
            found.append(joined(squared, cost, scale, self.settings.gap_share))
        return jointly(found)

    @property
    def _output(self) -> str:
        return "softmax" if self.protocol.network.startswith(SOFTMAX) else "tanh"
