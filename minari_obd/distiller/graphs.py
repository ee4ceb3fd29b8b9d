"""Outer steps on CUDA, each captured once in a graph and then replayed: one launch instead of about ten thousand."""

from dataclasses import dataclass, field
from typing import Any

import torch

from minari_obd.distiller.step import OuterPlan, OuterTensors, StepInputs, outer_step

__all__ = ["StepGraphs"]

_MOST_GRAPHS = 16
"""Plans that are captured; with more than that, such as many drawn lengths, the others run without a graph."""


@dataclass
class StepGraphs:
    """The graphs of the outer steps of one run, one for each plan. They share their memory, as they never overlap."""

    tensors: OuterTensors
    captured: dict[OuterPlan, tuple[Any, StepInputs]] = field(default_factory=dict)
    pool: Any = None

    def step(self, inputs: StepInputs, plan: OuterPlan) -> None:
        """Do what :func:`outer_step` does."""
        if plan not in self.captured:
            if len(self.captured) >= _MOST_GRAPHS:
                outer_step(self.tensors, inputs, plan)
                return
            self.captured[plan] = self._capture(inputs, plan)
        graph, static = self.captured[plan]
        for mine, given in zip(static.all(), inputs.all(), strict=True):
            mine.copy_(given, non_blocking=True)
        graph.replay()

    def _capture(self, inputs: StepInputs, plan: OuterPlan) -> tuple[Any, StepInputs]:
        static = inputs.clone()
        tensors = list(self.tensors.named().values())
        before = [tensor.clone() for tensor in tensors]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up in the first runs, which cannot be captured
            for _ in range(2):
                outer_step(self.tensors, static, plan)
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outer_step(self.tensors, static, plan)
        return graph, static
