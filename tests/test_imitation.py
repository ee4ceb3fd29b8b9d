"""Imitation: networks that act as an infinitely wide student does, and the states that they learn from."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import make_discrete, make_pairs
from finetuning_lab import PENDULUM, SMALL, pairs_for

import minari_obd
from minari_obd.cli.application import main
from minari_obd.cloning import imitation
from minari_obd.cloning.imitation import IMITATION
from minari_obd.cloning.policy import Policy
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.errors import SettingError
from minari_obd.finetuning import arguments
from minari_obd.settings.protocols import ADAM_STUDENT, KERNEL_STUDENT

SHORT = replace(IMITATION, depth=2, width=64, steps=600)


def smooth() -> DistilledDataset:
    """Pairs of a smooth rule, for infinitely wide students."""
    return replace(pairs_for(PENDULUM), protocol=KERNEL_STUDENT)


def apart(first: Policy, second: Policy, observations: np.ndarray) -> float:
    scale = first.action_scale
    return float(np.square(scale.scale(first(observations)) - scale.scale(second(observations))).mean())


def test_states_are_near_the_pairs_and_actions_the_policy_s_own() -> None:
    pairs = smooth()
    policy = minari_obd.clone(pairs)
    observations, actions = minari_obd.sample_pairs(policy, 1_001, seed=3)
    assert (observations.shape, actions.shape) == ((1_001, 4), (1_001, 1))
    assert observations.dtype == actions.dtype == np.float32
    np.testing.assert_array_equal(actions, policy(observations))
    states, centres = (pairs.normaliser.normalise(each) for each in (observations, pairs.observations))
    nearest = np.sqrt(np.square(states[:, None] - centres).sum(-1)).min(axis=1)
    apart = np.sqrt(np.square(centres[:, None] - centres).sum(-1))
    assert nearest.max() < np.median(apart)
    again = minari_obd.sample_pairs(policy, 1_001, seed=3)
    np.testing.assert_array_equal(again[0], observations)
    assert not np.array_equal(minari_obd.sample_pairs(policy, 1_001)[0], observations)


@pytest.mark.parametrize("size", [1, 2])
def test_hardly_any_pairs_have_hardly_any_neighbours(size: int) -> None:
    pairs = replace(make_pairs(size=size), protocol=KERNEL_STUDENT)
    observations, actions = minari_obd.sample_pairs(minari_obd.clone(pairs), 10)
    assert np.isfinite(observations).all()
    assert np.isfinite(actions).all()
    assert (observations.shape, actions.shape) == ((10, 3), (10, 2))


def test_noise_around_pairs_is_correlated_as_they_are() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(400, 1)) * [1.0, 2.0, 0.0] + [0.0, 0.0, 5.0]
    states = imitation._around(centres, 2_000, rng)
    np.testing.assert_allclose(states[:, 1], 2.0 * states[:, 0], atol=1e-9)  # along the one direction that there is
    np.testing.assert_allclose(states[:, 2], 5.0, atol=1e-9)


def test_a_network_that_imitates_is_closer_than_one_of_the_pairs_alone() -> None:
    pairs = smooth()
    policy = minari_obd.clone(pairs)
    held_out = minari_obd.sample_pairs(policy, 500, seed=9)[0]
    network = minari_obd.imitate(policy, protocol=SHORT)
    alone = minari_obd.clone(pairs, protocol=replace(SHORT, batch_size=None))
    assert apart(network, policy, held_out) < min(0.002, 0.5 * apart(alone, policy, held_out))
    assert (network.protocol, network.students) == (SHORT, 1)
    assert network.lineage == replace(policy.lineage, is_imitation=True)
    same, other = (minari_obd.imitate(policy, protocol=SHORT, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(same(held_out), network(held_out))
    assert apart(other, network, held_out) > 0.0


def test_several_networks_act_by_their_mean() -> None:
    policy = minari_obd.clone(smooth())
    several = minari_obd.imitate(policy, protocol=replace(SHORT, steps=20), students=3)
    assert several.students == 3
    assert not np.array_equal(*several.act_each(np.zeros((1, 4)))[:2])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 4_000])
def test_every_step_is_made_at_a_falling_rate(steps: int) -> None:
    phases = list(imitation._phases(replace(SHORT, steps=steps)))
    assert sum(each.steps for each in phases) == steps
    rates = [each.learning_rate for each in phases]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == SHORT.learning_rate


def test_discrete_actions_are_imitated_by_their_probabilities() -> None:
    pairs = replace(make_discrete(size=24), protocol=KERNEL_STUDENT.suited(is_discrete=True))
    policy = minari_obd.clone(pairs)
    network = minari_obd.imitate(policy, protocol=SHORT)
    assert network.protocol.network == "softmax_mlp"
    observations, chances = minari_obd.sample_pairs(policy, 500, seed=9)
    np.testing.assert_allclose(chances.sum(1), 1.0, rtol=1e-5)
    assert (network(observations) == policy(observations)).mean() > 0.9


def test_what_cannot_be_imitated_is_named() -> None:
    network = minari_obd.clone(make_pairs())
    for function in (minari_obd.imitate, minari_obd.sample_pairs):
        with pytest.raises(SettingError, match=r"students are networks \('mlp'\) already; give what clone makes"):
            function(network)
        with pytest.raises(SettingError, match="Policy"):
            function(make_pairs())  # pyright: ignore[reportArgumentType]  # what is refused
    wide = minari_obd.clone(smooth())
    with pytest.raises(SettingError, match="The protocol is of infinitely wide students; name one of networks"):
        minari_obd.imitate(wide, protocol="kernel")
    with pytest.raises(SettingError, match="count is 0"):
        minari_obd.sample_pairs(wide, 0)
    with pytest.raises(SettingError, match="students is 0"):
        minari_obd.imitate(wide, students=0)


def test_it_is_kept_and_published_as_what_it_is(tmp_path: Path) -> None:
    network = minari_obd.imitate(minari_obd.clone(smooth()), protocol=replace(SHORT, steps=5))
    loaded = [minari_obd.load_policy(network.save(tmp_path / "policy.safetensors"))]
    loaded.append(minari_obd.load_policy(network.save_pretrained(tmp_path / "policy")))
    assert [each.lineage for each in loaded] == [network.lineage] * 2
    assert (
        "by imitation of the infinitely wide student of these pairs: 5 steps"
        in (tmp_path / "policy/README.md").read_text()
    )


def test_fine_tuning_starts_from_a_network_that_imitates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "IMITATION", SHORT)
    pairs = smooth()
    report = minari_obd.finetune(pairs, steps=41, settings=SMALL, seed=3, progress=False)
    network = minari_obd.imitate(minari_obd.clone(pairs), protocol=SHORT, seed=3)
    own = minari_obd.evaluate(network, episodes=2, seed=3).returns
    assert report.returns[0].tobytes() == own[0].tobytes()
    assert report.policy is not None
    assert report.policy.lineage.is_imitation
    assert replace(ADAM_STUDENT, steps=4_000, batch_size=256) == IMITATION  # the shape of actors that learn online


def test_the_command_line_makes_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "imitate", partial(imitation.imitate, protocol=SHORT))
    smooth().save("wide")
    make_pairs().save("narrow")
    for name in ("wide", "narrow"):
        main(["clone", name, "--network", "--out", f"{name}.safetensors"])
    networks = [minari_obd.load_policy(f"{name}.safetensors") for name in ("wide", "narrow")]
    assert [each.protocol.network for each in networks] == ["mlp", "mlp"]
    assert [each.lineage.is_imitation for each in networks] == [True, False]
