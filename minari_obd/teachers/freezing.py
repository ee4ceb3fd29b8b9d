"""Freezing: d3rlpy's networks as those of a FrozenTeacher, which are compared with theirs at once."""

from typing import Any

import numpy as np

from minari_obd.sources.data import OfflineData
from minari_obd.support.precision import matmul_precision
from minari_obd.teachers.choice import Choice
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.networks import layers_of

__all__ = ["CONFIDENCE", "at_confidence", "freeze"]

CONFIDENCE = 0.9
"""Mean highest probability of a teacher of discrete actions, unless a recipe sets another."""
_COMPARED = 256
_LOOKED_AT = 4_096


@matmul_precision("float32")  # a GPU has TF32 in the whole process if d3rlpy was imported before this package
def freeze(algo: Any, data: OfflineData, details: dict[str, Any]) -> FrozenTeacher:
    """Copy what d3rlpy trained, and make sure that the copy says the same.

    A teacher of discrete actions gets the temperature at which its likeliest action has a probability of 0.9, in the
    mean over the data's states; its details say so.

    Args:
        algo: d3rlpy's algorithm, trained.
        data: what it was trained on.
        details: how it was trained, as JSON values.
    """
    critics = [layers_of(q_function) for q_function in algo.impl.q_function]
    bounds = data.action_low, data.action_high
    if not data.is_discrete:
        actor = layers_of(algo.impl.policy)
        return _compared(FrozenTeacher(actor, critics, data.normaliser, *bounds, details), algo, data)
    imitator = getattr(algo.impl.modules, "imitator", None)
    actor = [] if imitator is None else layers_of(imitator)
    choice = Choice(1.0, 0.0 if imitator is None else float(algo.config.action_flexibility))
    teacher = FrozenTeacher(actor, critics, data.normaliser, *bounds, details, choice=choice)
    return _compared(at_confidence(teacher, data, CONFIDENCE), algo, data)


def at_confidence(teacher: FrozenTeacher, data: OfflineData, confidence: float | None) -> FrozenTeacher:
    """Return the teacher with that mean highest probability over the data's states; as it is, if None.

    Raises:
        SettingError: as :meth:`FrozenTeacher.with_confidence`.
    """
    if confidence is None:
        return teacher
    return teacher.with_confidence(data.observations[:: 1 + len(data) // _LOOKED_AT], confidence)


def _compared(teacher: FrozenTeacher, algo: Any, data: OfflineData) -> FrozenTeacher:
    """The copy reads d3rlpy's modules in the order of their layers; make sure that it says the same."""
    states = data.observations[:_COMPARED]
    inputs = data.normaliser.normalise(states)
    actions = teacher.act(states)
    if teacher.choice is None:
        scaled = teacher.action_scale.scale(actions)
        np.testing.assert_allclose(scaled, algo.predict(inputs), rtol=1e-3, atol=1e-3)
    else:
        scaled, actions = algo.predict(inputs), np.eye(actions.shape[1], dtype=np.float32)[algo.predict(inputs)]
        np.testing.assert_array_less(np.max(teacher.act(states), axis=1) - 1e-3, (teacher.act(states) * actions).sum(1))
    np.testing.assert_allclose(teacher.value(states, actions), algo.predict_value(inputs, scaled), rtol=1e-3, atol=1e-3)
    return teacher
