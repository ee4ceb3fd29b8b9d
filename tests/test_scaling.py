"""Actions go to [-1, 1] and back."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_arrays

import minari_obd
from minari_obd.sources.scaling import ActionScale, Normaliser

LOW, HIGH = np.array([-1.0, 0.1, -2.5], np.float32), np.array([1.0, 0.7, 3.5], np.float32)
SCALE = ActionScale(LOW, HIGH)


def test_bounds_become_minus_one_and_one() -> None:
    assert SCALE.scale(np.stack([LOW, HIGH])).tolist() == [[-1.0] * 3, [1.0] * 3]
    assert SCALE.unscale(np.array([[-1.0] * 3, [1.0] * 3], np.float32)) == pytest.approx(np.stack([LOW, HIGH]))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_what_is_scaled_comes_back(kind: type) -> None:
    actions = np.random.default_rng(0).uniform(LOW, HIGH, (4, 1_000, 3)).astype(kind)
    scaled = SCALE.scale(actions)
    assert scaled.dtype == SCALE.unscale(scaled).dtype == kind
    assert np.abs(scaled).max() <= 1.0 + 1e-6
    assert SCALE.unscale(scaled) == pytest.approx(actions, abs=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_order_of_operations_keeps_the_bits_of_data_that_was_made_before(kind: type) -> None:
    actions = np.random.default_rng(1).uniform(LOW, HIGH, (10_000, 3)).astype(kind)
    scaled = 2.0 * (actions - LOW) / (HIGH - LOW) - 1.0
    assert SCALE.scale(actions).tobytes() == scaled.tobytes()
    assert SCALE.scale(actions).tobytes() == (2 * (actions - LOW) / (HIGH - LOW) - 1).tobytes()
    assert SCALE.unscale(scaled).tobytes() == (LOW + 0.5 * (scaled + 1.0) * (HIGH - LOW)).tobytes()


def test_normalisers_of_moving_dimensions_keep_their_bits() -> None:
    rows = np.random.default_rng(0).normal([0, 5, -3e3], [1e-5, 1, 40], (500, 3)).astype(np.float32)
    fitted, exact = Normaliser.fit(rows), rows.astype(np.float64)
    assert fitted.scale.tobytes() == (exact.std(axis=0) + 1e-3).astype(np.float32).tobytes()
    assert fitted.mean.tobytes() == exact.mean(axis=0).astype(np.float32).tobytes()
    assert not fitted.frozen.any()


def test_a_dimension_that_never_changes_has_the_scale_of_one() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    rows[:, 1] = 0.1  # whose mean in float64 is not exactly that
    fitted = Normaliser.fit(rows)
    assert list(fitted.frozen) == [False, True, False]
    assert fitted.scale[1] == pytest.approx(1.0)
    joined = Normaliser.join([fitted, Normaliser.fit(rows + np.array([1, 0, 0], np.float32))], [500, 500])
    assert list(joined.frozen) == [False, True, False]
    moved = Normaliser.join([fitted, Normaliser.fit(rows + np.array([0, 2, 0], np.float32))], [500, 500])
    assert moved.scale[1] == pytest.approx(1.001, rel=1e-4)
    assert not moved.frozen.any()
    old = replace(fitted, scale=np.where(fitted.frozen, np.float32(1e-3), fitted.scale))
    assert fitted.scale_like(old).tobytes() == old.scale.tobytes()
    assert fitted.scale_like(replace(old, scale=2 * old.scale)).tobytes() == fitted.scale.tobytes()


def test_the_plan_says_which_observations_students_hardly_see(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = make_arrays([200], state_size=4)
    for name in ("observations", "next_observations"):
        arrays[name][:, 2] *= 1e-4
    minari_obd.distill(arrays, "random", size=8)
    assert "1 of 4 vary by less than 0.001 (dimensions 2, from 0), so students hardly see" in capsys.readouterr().err


@pytest.mark.parametrize("method", [None, "random", "dbc"])
def test_a_policy_keeps_its_head_when_a_frozen_dimension_moves(
    method: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = make_arrays([200], state_size=4)
    arrays["observations"][:, 2] = arrays["next_observations"][:, 2] = 7.0
    data = minari_obd.load_offline_data(arrays)
    recipe = minari_obd.Recipe("arrays", method or "random", size=16)
    recipe = replace(recipe, distillation=replace(recipe.distillation, steps=2))
    pairs = minari_obd.distill(data, recipe=recipe)
    assert "1 of 4 never change in the data (dimensions 2, from 0)" in capsys.readouterr().err
    policy = minari_obd.clone(data if method is None else pairs, protocol="adam")
    seen = data.observations[:50]
    assert np.abs(policy(seen + np.array([0, 0, 0.01, 0], np.float32)) - policy(seen)).max() < 0.02
