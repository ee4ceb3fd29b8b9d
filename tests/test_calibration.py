"""Calibration of a teacher's values: closed forms, and what is said when they are off."""

import numpy as np
import pytest
from conftest import RuleTeacher, make_arrays

import minari_obd
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import discounted_returns
from minari_obd.teachers.calibration import calibrate


def data_of(lengths: list[int], *, terminated: bool) -> OfflineData:
    """Episodes of reward 1 a step, all of them terminated or all truncated."""
    arrays = make_arrays(lengths)
    ends = np.cumsum(lengths) - 1
    for name, value in (("terminations", terminated), ("truncations", not terminated)):
        arrays[name] = np.zeros(sum(lengths), dtype=bool)
        arrays[name][ends] = value
    return load_offline_data({**arrays, "rewards": np.ones(sum(lengths), dtype=np.float32)})


class Constant(RuleTeacher):
    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = values

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return self.values[: len(states)]


def test_returns_are_geometric_sums() -> None:
    data = data_of([3, 2], terminated=True)
    np.testing.assert_allclose(discounted_returns(data, 0.5), [1.75, 1.5, 1.0, 1.5, 1.0])


def test_only_returns_that_are_known_to_their_end_count() -> None:
    # 0.5^5 < 0.05 < 0.5^4: of a truncated episode of 8 steps, those with 5 more to come, itself among them.
    assert calibrate(Constant(np.zeros(9)), data_of([8, 1], terminated=False), gamma=0.5).states == 4
    assert calibrate(Constant(np.zeros(9)), data_of([8, 1], terminated=True), gamma=0.5).states == 9
    none = calibrate(Constant(np.zeros(9)), data_of([2, 2], terminated=False), gamma=0.5)
    assert none.states == 0
    assert none.problem is None
    assert none.to_json()["mean_value"] is None
    assert "cannot be checked" in str(none)


@pytest.mark.parametrize(
    ("values", "correlation", "problem"),
    [
        (lambda g: g, 1.0, None),
        (lambda g: 3 * g, 1.0, None),  # a better policy than the data's
        (lambda g: -g + 2.0, -1.0, "fall where returns rise"),
        (lambda g: g + 100.0, 1.0, "far above every return"),
        (lambda g: g - 100.0, 1.0, "far below every return"),
        (lambda g: g * np.nan, 0.0, "not finite"),
        (lambda g: np.full_like(g, 1.5), 0.0, None),
    ],
)
def test_values_that_are_off_are_named(values, correlation: float, problem: str | None) -> None:
    data = data_of([6, 3], terminated=True)
    returns = discounted_returns(data, 0.99)
    found = calibrate(Constant(values(returns)), data)
    assert found.rank_correlation == pytest.approx(correlation)
    assert found.mean_return == pytest.approx(returns.mean())
    if problem is None:
        assert found.problem is None
    else:
        assert problem in (found.problem or "")
        assert f"not to be trusted: {found.problem}" in str(found)


def test_the_figures_are_in_the_provenance(small_data: OfflineData, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"size": 8, "seed": 0, "recipe": None}
    recipe = minari_obd.Recipe(
        "x", distillation=DistillationRecipe(kernel_steps=5, steps=1, batch_size=64, evaluate_every=1)
    )
    made = minari_obd.distill(small_data, "av_pbc", teacher=RuleTeacher(), **{**settings, "recipe": recipe})
    kept = made.provenance.targets["value_calibration"]
    assert kept == calibrate(RuleTeacher(), small_data).to_json()
    assert "  values       " in capsys.readouterr().err
    plain = minari_obd.distill(small_data, "pbc", teacher=RuleTeacher(), **{**settings, "recipe": recipe})
    assert "value_calibration" not in plain.provenance.targets
