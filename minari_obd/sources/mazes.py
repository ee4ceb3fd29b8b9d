"""Behaviour in Gymnasium-Robotics' point mazes: a controller that steers from cell to cell to the goal."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["CONTROLLERS", "MazeController"]

_GAIN, _DAMPING = 10.0, 1.0


@dataclass(frozen=True)
class MazeController:
    """Steers to the middle of the next cell on a shortest way, and in the goal's cell to the goal.

    It is of the kind that Minari's D4RL/pointmaze datasets were made with: a = 10 (waypoint - position) - velocity,
    with Gaussian noise, clipped at -1 and 1. It needs nothing but the observation.
    """

    maze: tuple[str, ...]
    """Rows of the map, from the top: ``#`` is a wall. Cells are squares of length 1, and the map's middle is (0, 0)."""
    noise: float = 0.5
    """Standard deviation of the noise on actions."""

    def act(self, observations: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Return actions (B, 2) for flattened observations (B, 8): achieved goal, desired goal, place and velocity."""
        at, goal, velocity = observations[:, 0:2], observations[:, 2:4], observations[:, 6:8]
        here, there = self._cells(at), self._cells(goal)
        following = self._next[(*here.T, *there.T)]
        middles = np.stack(
            [following[:, 1] + 0.5 - len(self.maze[0]) / 2, len(self.maze) / 2 - following[:, 0] - 0.5], axis=1
        )
        waypoints = np.where((here == there).all(axis=1, keepdims=True), goal, middles)
        noise = np.stack([rng.normal(size=2) for rng in generators])
        actions = _GAIN * (waypoints - at) - _DAMPING * velocity + self.noise * noise
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def _cells(self, places: np.ndarray) -> np.ndarray:
        """Rows and columns (B, 2) of places (B, 2)."""
        rows = np.floor(len(self.maze) / 2 - places[:, 1])
        columns = np.floor(len(self.maze[0]) / 2 + places[:, 0])
        return np.clip(np.stack([rows, columns], axis=1), 0, [len(self.maze) - 1, len(self.maze[0]) - 1]).astype(int)

    @cached_property
    def _next(self) -> np.ndarray:
        """The cell to go to, (rows, columns, rows, columns, 2), from every cell on the way to every other."""
        size = len(self.maze), len(self.maze[0])
        found = np.stack(np.meshgrid(*map(np.arange, size), *map(np.arange, size), indexing="ij"), axis=-1)[..., :2]
        free = {(i, j) for i, row in enumerate(self.maze) for j, cell in enumerate(row) if cell != "#"}
        for goal in free:
            seen, waiting = {goal}, deque([goal])
            while waiting:
                i, j = waiting.popleft()
                for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                    if cell in free and cell not in seen:
                        found[(*cell, *goal)] = (i, j)
                        seen.add(cell)
                        waiting.append(cell)
        return found


CONTROLLERS = {"umaze-controller": MazeController(("#####", "#...#", "###.#", "#...#", "#####"))}
"""By their names among behaviour policies. The map is Gymnasium-Robotics' U_MAZE."""
