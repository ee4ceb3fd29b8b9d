"""Actions go to [-1, 1] and back."""

import numpy as np
import pytest

from minari_obd.sources.scaling import ActionScale

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
