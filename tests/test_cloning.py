"""Cloning: students learn their pairs, alone or together, from pairs or from whole datasets."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pairs

import minari_obd
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.data import OfflineData
from minari_obd.sources.scaling import Normaliser

LONG = StudentProtocol(depth=2, width=64, steps=600, optimiser="adam", learning_rate=3e-3)


def test_a_student_learns_its_pairs() -> None:
    pairs = make_pairs()
    inside = np.clip(pairs.actions, -1.9, 3.9)
    pairs = replace(pairs, actions=inside)
    policy = minari_obd.clone(pairs, protocol=LONG)
    np.testing.assert_allclose(policy(pairs.observations), pairs.actions, atol=0.1)
    assert policy(pairs.observations[0]).shape == (2,)
    assert policy.students == 1


def test_the_set_brings_its_own_protocol_and_a_name_overrides_it() -> None:
    pairs = make_pairs()
    assert minari_obd.clone(pairs).protocol == pairs.protocol
    assert minari_obd.clone(pairs, protocol="paper").protocol == StudentProtocol()
    with pytest.raises(NotFoundError, match="did you mean 'paper'"):
        minari_obd.clone(pairs, protocol="pape")


def test_several_students_act_by_their_mean() -> None:
    pairs = make_pairs()
    policy = minari_obd.clone(pairs, students=3)
    each = policy.act_each(pairs.observations)
    assert each.shape == (3, 8, 2)
    np.testing.assert_allclose(policy(pairs.observations), each.mean(axis=0))
    assert not np.allclose(each[0], each[1])
    stacked = np.stack([pairs.observations] * 3)
    np.testing.assert_allclose(policy.act_each(stacked), each, atol=1e-6)


def test_the_same_seed_gives_the_same_policy(small_data: OfflineData) -> None:
    protocol = StudentProtocol(depth=1, width=8, steps=20, batch_size=32)
    first, second, other = (minari_obd.clone(small_data, protocol=protocol, seed=s) for s in (0, 0, 1))
    rows = small_data.observations[:20]
    assert first(rows).tobytes() == second(rows).tobytes() != other(rows).tobytes()


def test_a_whole_dataset_can_be_cloned(small_data: OfflineData) -> None:
    policy = minari_obd.clone(small_data, protocol=replace(LONG, batch_size=128))
    assert np.abs(policy(small_data.observations) - small_data.actions).mean() < 0.05


def test_sets_of_one_source_are_joined() -> None:
    first = make_pairs()
    second = replace(first, observations=first.observations + 1, actions=first.actions[::-1].copy())
    joined = replace(
        first,
        observations=np.concatenate([first.observations, second.observations]),
        actions=np.concatenate([first.actions, second.actions]),
    )
    rows = first.observations
    np.testing.assert_array_equal(minari_obd.clone([first, second])(rows), minari_obd.clone(joined)(rows))
    with pytest.raises(DataError, match="at least one"):
        minari_obd.clone([])


def test_sets_of_several_sources_are_joined_by_their_joint_normaliser() -> None:
    rng = np.random.default_rng(0)
    sources = [rng.normal(1.0, 2.0, (300, 3)), rng.normal(-4.0, 0.5, (300, 3))]
    sets = [replace(make_pairs(seed=i), normaliser=Normaliser.fit(rows)) for i, rows in enumerate(sources)]
    union = Normaliser.fit(np.concatenate(sources))
    policy = minari_obd.clone(sets)
    np.testing.assert_allclose(policy.normaliser.mean, union.mean, rtol=1e-5)
    np.testing.assert_allclose(policy.normaliser.scale, union.scale, rtol=1e-5)
    joined = replace(
        sets[0],
        observations=np.concatenate([each.observations for each in sets]),
        actions=np.concatenate([each.actions for each in sets]),
        normaliser=policy.normaliser,
    )
    rows = joined.observations
    assert policy(rows).tobytes() == minari_obd.clone(joined)(rows).tobytes()
    assert policy.env_id == "Hopper-v5"
    other = replace(sets[1], env_id="Ant-v5", reference=None)
    assert minari_obd.clone([sets[0], other]).env_id is None
    for wrong in (make_pairs(shape=(4, 2)), replace(sets[1], action_high=np.full(2, 5.0))):
        with pytest.raises(DataError, match="only sets that agree in both"):
            minari_obd.clone([sets[0], wrong])


def test_a_source_weighs_in_the_joint_normaliser_as_its_pairs_do() -> None:
    parts = [Normaliser(np.array([0.0]), np.array([1.001])), Normaliser(np.array([4.0]), np.array([3.001]))]
    joint = Normaliser.join(parts, [3, 1])
    np.testing.assert_allclose(joint.mean, [1.0])
    np.testing.assert_allclose(joint.scale, [np.sqrt(0.75 * (1 + 1) + 0.25 * (9 + 9)) + 1e-3], rtol=1e-6)
    assert Normaliser.join([parts[1], parts[1]], [3, 1]).scale.tobytes() == parts[1].scale.tobytes()


def test_a_policy_survives_save_and_load() -> None:
    pairs = make_pairs()
    policy = minari_obd.clone(pairs, students=2)
    loaded = minari_obd.load_policy(policy.save("deep/policy.safetensors"))
    assert loaded(pairs.observations).tobytes() == policy(pairs.observations).tobytes()
    assert loaded.env_id == "Hopper-v5"
    assert [path.name for path in Path("deep").iterdir()] == ["policy.safetensors"]


def test_bad_policies_are_named() -> None:
    with pytest.raises(NotFoundError, match="There is no policy"):
        minari_obd.load_policy("none.safetensors")
    Path("text.safetensors").write_text("no")
    with pytest.raises(FormatError, match="is not a policy"):
        minari_obd.load_policy("text.safetensors")
    Path("file").write_text("")
    with pytest.raises(SettingError, match="cannot be written"):
        minari_obd.clone(make_pairs()).save("file/policy.safetensors")
    with pytest.raises(DataError, match=r"takes observations \(B, 3\)"):
        minari_obd.clone(make_pairs())(np.zeros((2, 4)))


@pytest.mark.parametrize("observations", ["abc", ["a", "b", "c"], [[1, 2, 3], [1, 2]], [1, 2, None], [1j, 0, 0]])
def test_observations_that_are_no_numbers_are_named(observations: object) -> None:
    with pytest.raises(DataError, match=r"takes observations \(3,\) or \(B, 3\)"):
        minari_obd.clone(make_pairs())(observations)


def test_observations_of_another_form_are_named() -> None:
    policy = minari_obd.clone(make_pairs())
    for odd in (np.zeros((2, 4, 3)), torch.zeros(3, requires_grad=True), None):
        with pytest.raises(DataError, match="The policy takes observations"):
            policy(odd)
    np.testing.assert_array_equal(policy(torch.zeros(3)), policy([0, 0, 0]))


def test_what_is_not_loaded_yet_is_told_how(small_data: OfflineData) -> None:
    pairs = make_pairs()
    ref: Any = "shelf/x"
    arrays: Any = {"observations": small_data.observations}
    nothing: Any = None
    number: Any = 3
    name = "'shelf/x' is a str; load it first, with minari_obd.load_dataset"
    for work, said in (
        (lambda: minari_obd.clone(ref), f"clone takes DistilledDataset or OfflineData, and {name}"),
        (lambda: minari_obd.clone([pairs, ref]), name),
        (lambda: minari_obd.clone(arrays), "is a dict; load it first"),
        (lambda: minari_obd.clone(nothing), "is a NoneType."),
        (
            lambda: minari_obd.clone(pairs, protocol=number),
            "protocol takes str or StudentProtocol, and what was",
        ),
        (lambda: minari_obd.evaluate(ref), "'shelf/x' is a name; load it first"),
        (lambda: minari_obd.evaluate(pairs, protocol=number), "takes str or EvaluationProtocol or StudentProtocol"),
        (lambda: minari_obd.diagnose(ref), f"diagnose takes DistilledDataset, and {name}"),
        (lambda: minari_obd.finetune(ref, steps=1), name),
        (lambda: minari_obd.learn_continually([pairs, ref]), name),
        (lambda: minari_obd.train_teacher(ref), "takes OfflineData, and 'shelf/x' is a str; load it first"),
    ):
        with pytest.raises(SettingError, match=re.escape(said)):
            work()
