"""Errors by density: deciles whose content is known, and the same order of states for every method."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from test_diagnostics import SMALL, LinearTeacher, made_data, noisy_case, pairs_of

import minari_obd
from minari_obd.densities import neighbours
from minari_obd.densities.mixture import GaussianMixture
from minari_obd.errors import DataError, MissingExtraError, NotFoundError, SettingError
from minari_obd.experiments.densities import SetErrors, density_table, errors_by_density, errors_by_method
from minari_obd.inspection.density_errors import ErrorByDensity, errors_over_sets
from minari_obd.inspection.diagnosis import diagnose, error_by_density
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe


def known(order: np.ndarray, scale: float = 1.0) -> ErrorByDensity:
    """43 states, each denser than the one before it, where student e errs by e + 1 at the first ten and else by e."""
    rank = np.arange(43)
    errors = np.stack([e + (rank < 10) for e in range(3)]).astype(np.float32) * scale
    wanted = np.stack([rank % 2, np.zeros(43)], axis=1)
    return ErrorByDensity.of(errors[:, order], wanted[order], 0.5 * rank[order], estimator="mine", against="teacher")


def test_deciles_are_those_of_the_density() -> None:
    found = known(np.arange(43))
    assert [decile.states for decile in found.deciles] == [5] * 3 + [4] * 7
    assert [decile.error.mean for decile in found.deciles] == [2.0] * 2 + [1.0] * 8
    assert [decile.log_density for decile in found.deciles][:4] == [1.0, 3.5, 6.0, 8.25]
    assert found.deciles[9].constant == pytest.approx(0.5 * 0.25)  # two of four actions in one of two dimensions
    assert found.deciles[0].error.low < 1.5
    assert known(np.random.default_rng(0).permutation(43)) == found  # the order of rows has no say
    assert ErrorByDensity.from_json(json.loads(json.dumps(asdict(found)))) == found


def test_what_are_no_deciles_is_refused() -> None:
    with pytest.raises(DataError, match="need 10 held-out states; there are 9"):
        ErrorByDensity.of(np.ones((2, 9)), np.ones((9, 1)), np.arange(9.0), estimator="", against="data")
    with pytest.raises(DataError, match="not finite"):
        ErrorByDensity.of(np.full((2, 10), np.nan), np.ones((10, 1)), np.arange(10.0), estimator="", against="data")
    held = asdict(known(np.arange(43)))
    for damage in (
        {**held, "deciles": held["deciles"][1:]},
        {**held, "deciles": [{**each, "constant": "x"} for each in held["deciles"]]},
        {"deciles": held["deciles"]},
        [],
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            ErrorByDensity.from_json(damage)  # pyright: ignore[reportArgumentType]


def test_over_sets_the_seeds_are_resampled() -> None:
    one, other = known(np.arange(43)), known(np.arange(43), 3.0)
    assert errors_over_sets([one]) == [decile.error for decile in one.deciles]
    both = errors_over_sets([one, other])
    assert [(e.low, e.mean, e.high) for e in both] == [(2.0, 4.0, 6.0)] * 2 + [(1.0, 2.0, 3.0)] * 8


def test_errors_to_other_actions_are_not_mixed() -> None:
    errors = known(np.arange(43))
    sets = [SetErrors("lab/x-v0", "sdw", 8, seed, errors) for seed in (0, 1)]
    sets.append(SetErrors("lab/x-v0", "dbc", 8, 0, replace(errors, against="data")))
    assert errors_by_method(sets) == {"sdw": [errors, errors]}
    assert list(errors_by_method(sets[2:])) == ["dbc"]
    table = density_table(sets).splitlines()
    assert len(table) == 3
    assert table[0].startswith("| source | pairs of | error to | seeds | 1 (rarest) | 2 |")
    assert table[2].startswith("| `lab/x-v0` | sdw, 8 | teacher | 2 | 2.000 (2.000 to 2.000) |")


def test_a_diagnosis_holds_them_and_their_mean_is_the_error() -> None:
    pairs, data = noisy_case()
    found = diagnose(pairs, data, students=2)
    taught = diagnose(pairs, data, students=2, teacher=LinearTeacher())
    assert found.error_by_density is not None
    assert taught.error_by_density is not None
    assert taught.offline_error_to_teacher is not None
    for parts, whole in (
        (found.error_by_density, found.offline_error),
        (taught.error_by_density, taught.offline_error_to_teacher),
    ):
        assert [decile.states for decile in parts.deciles] == [20] * 10
        assert np.mean([decile.error.mean for decile in parts.deciles]) == pytest.approx(whole.mean.mean, rel=1e-6)
        places = [decile.log_density for decile in parts.deciles]
        assert places == sorted(places)
    assert (found.error_by_density.against, taught.error_by_density.against) == ("data", "teacher")
    assert "KNearestNeighbours" in found.error_by_density.estimator
    assert error_by_density(pairs, data, students=2) == found.error_by_density
    text = taught.to_markdown()
    for name in ("rarest", "fifth", "commonest"):
        assert f"{name} tenth of held-out states, to the teacher | " in text
    assert ErrorByDensity.from_json(taught.to_json()["error_by_density"]) == taught.error_by_density


def test_states_are_put_in_the_same_order_for_every_method() -> None:
    data = made_data()
    still = Recipe("x", student=SMALL, distillation=DistillationRecipe(kernel_steps=5, steps=1, batch_size=64))
    distilled, selected = (
        minari_obd.distill(data, method, size=16, recipe=still, progress=False) for method in ("dbc", "random")
    )
    found = [
        error_by_density(distilled, data, students=1),
        error_by_density(distilled, data, students=2, seed=3, teacher=LinearTeacher()),
        error_by_density(selected, data, students=1),
    ]
    first, again, other = ([decile.log_density for decile in each.deciles] for each in found)
    assert again == first
    assert other == pytest.approx(first, abs=0.2)  # the one or two held-out rows that were selected do not count
    assert other[0] < other[9] - 2


def test_another_estimator_may_be_asked_for() -> None:
    pairs, data = noisy_case()
    by_name, by_hand = (error_by_density(pairs, data, students=1, density=d) for d in ("gmm", GaussianMixture()))
    assert by_name == by_hand
    assert by_name.deciles[9].log_density > by_name.deciles[0].log_density + 2
    with pytest.raises(NotFoundError, match="did you mean 'knn'"):
        diagnose(pairs, data, density="knm")
    with pytest.raises(SettingError, match="students is 0; it must be at least 1"):
        error_by_density(pairs, data, students=0)


def test_where_there_are_none_a_note_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    few = made_data(100)
    found = diagnose(pairs_of(few, few.observations[:8], few.actions[:8]), few, students=1)
    assert found.error_by_density is None
    assert any("need 10 held-out states; there are 5" in note for note in found.notes)

    def absent(module: str, extra: str) -> None:
        raise MissingExtraError(f"This needs {module}, of {extra}.")

    monkeypatch.setattr(neighbours, "check_installed", absent)
    pairs, data = noisy_case()
    found = diagnose(pairs, data, students=1)
    assert found.error_by_density is None
    assert found.membership.members > 0
    assert "There are no errors by density: This needs sklearn, of distill." in found.notes
    with pytest.raises(MissingExtraError):
        error_by_density(pairs, data, students=1)


def test_a_folder_without_sets_is_named() -> None:
    with pytest.raises(NotFoundError, match="There are no distilled datasets in 'nothing'"):
        errors_by_density("nothing")
