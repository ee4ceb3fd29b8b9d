"""Bodies: where the parts of a MuJoCo model are while a policy acts, as segments in a plane. It needs no OpenGL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minari_obd.environments.episodes import Step, run_episodes
from minari_obd.environments.making import make_environment
from minari_obd.errors import SettingError
from minari_obd.support.devices import cpu_threads

__all__ = ["BodyEpisode", "check_bodies", "record_bodies"]

# MuJoCo's numbers of shapes (mjtGeom). Planes and height fields are the ground.
_GROUND, _SPHERE, _LONG = (0, 1), 2, (3, 5)  # the last: capsules and cylinders, along their z axis
_FLAT = 0.3  # of the extent sideways: bodies that move less than that upwards are seen from above


@dataclass(frozen=True)
class BodyEpisode:
    """One episode, as what a body looked like after each of T steps, and at the start."""

    segments: np.ndarray
    """Both ends of each of G parts, horizontally and vertically: shape (T + 1, G, 2, 2), metres."""
    radii: np.ndarray
    """Thickness of the parts, shape (G,), metres."""
    returns: np.ndarray
    """Sum of rewards so far, shape (T + 1,)."""
    seconds: float
    """Simulated time of a step."""
    terminated: bool
    """Whether the episode ended in a terminal state, and not by its time limit."""
    is_from_above: bool
    """Whether the vertical axis is the model's y, and not its z."""
    has_ground: bool
    """Whether there is a ground to stand on, at height 0."""


def record_bodies(env_id: str, seed: int, act: Callable[[np.ndarray], np.ndarray]) -> BodyEpisode:
    """Run one episode and keep where the parts of the body are.

    Args:
        env_id: a plain registered id of a MuJoCo environment.
        seed: of the reset.
        act: maps raw observations (B, S), float32, to raw actions (B, A).

    Raises:
        SettingError: the environment is not MuJoCo's, or none of its parts moves.
        NotFoundError, DataError: as in :func:`make_environment`.
    """
    environment: Any = make_environment(env_id)
    try:
        parts = check_bodies(environment, env_id)
    except SettingError:
        environment.close()
        raise
    model, data = environment.unwrapped.model, environment.unwrapped.data
    halves, axes, radii = zip(*(_shape(model, g) for g in parts), strict=True)
    ends: list[np.ndarray] = []
    steps: list[Step] = []

    def look() -> None:
        along = np.stack([data.geom_xmat[g].reshape(3, 3)[:, axis] for g, axis in zip(parts, axes, strict=True)])
        reach = along * np.array(halves)[:, None]
        centres = data.geom_xpos[parts]
        ends.append(np.stack([centres - reach, centres + reach], axis=1))

    def act_and_look(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        if not ends:
            look()
        return np.asarray(act(observations.astype(np.float32)))

    def record(_: int, step: Step) -> None:
        steps.append(step)
        look()

    with cpu_threads(1):
        run_episodes([environment], [seed], act_and_look, record)
    environment.close()
    found = np.stack(ends)
    spread = np.ptp(found, axis=(0, 1, 2)) + 2 * max(radii)
    is_from_above = bool(spread[2] < _FLAT * spread[1])
    rewards = np.array([step.reward for step in steps])
    return BodyEpisode(
        segments=found[..., [0, 1 if is_from_above else 2]],
        radii=np.array(radii),
        returns=np.concatenate([[0.0], rewards.cumsum()]),
        seconds=float(environment.unwrapped.dt),
        terminated=steps[-1].terminated,
        is_from_above=is_from_above,
        has_ground=not is_from_above and bool(np.isin(model.geom_type, _GROUND).any()),
    )


def check_bodies(environment: Any, env_id: str) -> list[int]:
    """Return the numbers of the parts that can be drawn.

    Raises:
        SettingError: the environment is not MuJoCo's, or none of its parts moves.
    """
    body: Any = environment.unwrapped
    if not hasattr(getattr(body, "data", None), "geom_xpos"):
        raise SettingError(f"'{env_id}' is not simulated by MuJoCo, so there is no body to draw; name one that is.")
    model = body.model
    # Parts of the world, body 0, do not move, and neither do invisible ones show.
    parts = [
        g
        for g in range(model.ngeom)
        if model.geom_type[g] not in _GROUND and model.body_weldid[model.geom_bodyid[g]] and model.geom_rgba[g, 3]
    ]
    if not parts:
        raise SettingError(f"Nothing of '{env_id}' moves, so there is nothing to draw; name another environment.")
    return parts


def _shape(model: Any, geom: int) -> tuple[float, int, float]:
    """Return a part's half length, the axis that it lies along, and its radius; boxes and meshes become rods."""
    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    if kind == _SPHERE:
        return 0.0, 2, float(size[0])
    if kind in _LONG:
        return float(size[1]), 2, float(size[0])
    half = size if size.all() else model.geom_aabb[geom, 3:]
    axis = int(np.argmax(half))
    radius = float(np.median(half))
    return max(0.0, float(half[axis]) - radius), axis, radius
