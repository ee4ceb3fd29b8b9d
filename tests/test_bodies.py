"""Bodies: every one of Gymnasium's MuJoCo environments goes the whole way, from four observations to 348."""

import numpy as np
import pytest

import minari_obd
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe, TeacherRecipe

BODIES = {
    "InvertedPendulum-v5": (4, 1),
    "Swimmer-v5": (8, 2),
    "InvertedDoublePendulum-v5": (9, 1),
    "Reacher-v5": (10, 2),
    "Pusher-v5": (23, 7),
    "Ant-v5": (105, 8),
    "Humanoid-v5": (348, 17),
    "HumanoidStandup-v5": (348, 17),
}


@pytest.mark.parametrize("env_id", BODIES)
def test_a_body_goes_from_data_to_a_score(env_id: str) -> None:
    observed, acted = BODIES[env_id]
    source = f"lab/{env_id.lower()[:-3]}-v0"
    minari_obd.collect(source, env_id, "random", steps=80, progress=False)
    student = StudentProtocol(depth=1, width=8, steps=5, optimiser="adam", learning_rate=0.01)
    settings = DistillationRecipe(steps=2, batch_size=16, evaluate_every=1, initial="random")
    teacher = TeacherRecipe("td3_bc", steps=3)
    recipe = Recipe(source, "pbc", 8, student=student, distillation=settings, teacher=teacher)
    pairs = minari_obd.distill(recipe=recipe, progress=False)
    assert (pairs.observations.shape, pairs.actions.shape) == ((8, observed), (8, acted))
    assert np.isfinite(pairs.observations).all()
    policy = minari_obd.clone(pairs)
    assert policy(pairs.observations).shape == (8, acted)
    assert (np.abs(policy(pairs.observations)) <= pairs.action_high + 1e-6).all()
    report = minari_obd.evaluate(pairs, students=1, episodes=1, workers=1)
    assert report.env_id == env_id
    assert np.isfinite(report.returns).all()
    assert report.successes is None
    assert (report.reference is not None) == (env_id == "Ant-v5")  # of these, D4RL has scores for the ant alone


def test_a_lander_goes_the_same_way_by_the_numbers_of_its_engines() -> None:
    pytest.importorskip("Box2D")
    minari_obd.collect("lab/lander-v0", "LunarLander-v3", "random", steps=80, progress=False)
    student = StudentProtocol(depth=1, width=8, steps=5, optimiser="adam", learning_rate=0.01)
    settings = DistillationRecipe(steps=2, batch_size=16, evaluate_every=1, initial="random")
    teacher = TeacherRecipe("discrete_cql", steps=3)
    recipe = Recipe("lab/lander-v0", "pbc", 8, student=student, distillation=settings, teacher=teacher)
    pairs = minari_obd.distill(recipe=recipe, progress=False)
    assert (pairs.observations.shape, pairs.actions.shape) == ((8, 8), (8, 4))
    report = minari_obd.evaluate(pairs, students=1, episodes=1, workers=1)
    assert np.isfinite(report.returns).all()
