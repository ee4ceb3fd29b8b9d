"""Observations that were dicts or tuples: the set, its card and its policy say which columns are which part."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_pairs

import minari_obd
from minari_obd.distilled.card import dataset_card
from minari_obd.errors import DataError
from minari_obd.sources.collecting import collect
from minari_obd.sources.fields import ObservationField, fields_of_space, flatten_observation

SPACE = gym.spaces.Dict(
    {
        "goal": gym.spaces.Box(-1.0, 1.0, (2, 2)),
        "hand": gym.spaces.Dict({"speed": gym.spaces.Box(-1.0, 1.0, (3,)), "mode": gym.spaces.Discrete(4, start=1)}),
        "rest": gym.spaces.Tuple((gym.spaces.Box(0.0, 1.0, ()), gym.spaces.MultiBinary(3))),
    }
)


class Hand(gym.Env):
    """Observes a dict, and ends after five steps."""

    observation_space = gym.spaces.Dict({"near": gym.spaces.Box(-1, 1, (2,)), "goal": gym.spaces.Box(-1, 1, (1,))})
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.left = 5
        return self._observe(), {}

    def step(self, action: np.ndarray):
        self.left -= 1
        return self._observe(), 1.0, self.left == 0, False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        return {"near": self.np_random.uniform(-1, 1, 2).astype("f4"), "goal": np.array([self.left / 5], "f4")}


@pytest.fixture(autouse=True)
def hand() -> Iterator[None]:
    gym.register("Hand-v0", cast(Any, Hand), max_episode_steps=50, disable_env_checker=True)
    yield
    del gym.registry["Hand-v0"]


def stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: stacked([each[key] for each in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked([each[i] for each in values]) for i in range(len(values[0])))
    return np.stack(values)


def test_the_order_is_gymnasiums_one_by_one_and_in_batches() -> None:
    fields = fields_of_space(SPACE)
    assert [each.name for each in fields] == ["goal", "hand/mode", "hand/speed", "rest/0", "rest/1"]
    SPACE.seed(0)
    observations = [SPACE.sample() for _ in range(5)]
    expected = np.stack([np.asarray(gym.spaces.flatten(SPACE, each)) for each in observations])
    found = np.stack([flatten_observation(fields, each) for each in observations])
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(flatten_observation(fields, stacked(observations)), expected)
    for wrong, message in (
        ({"goal": np.zeros((2, 2))}, "no part 'hand/mode'"),
        ({**observations[0], "goal": np.zeros(3)}, "'goal' has shape"),
        ({**observations[0], "goal": np.zeros((7, 2, 2))}, "Some parts"),
        ({**observations[0], "hand": {**observations[0]["hand"], "mode": 0}}, "'hand/mode' has a value .* from 1 to 4"),
    ):
        with pytest.raises(DataError, match=message):
            flatten_observation(fields, wrong)


def test_from_the_data_to_the_set_its_card_and_its_policy() -> None:
    collect("lab/hand-v0", "Hand-v0", "random", steps=60, progress=False)  # flattens the dicts and says how
    pairs = minari_obd.distill("lab/hand-v0", "random", size=8, out="made", progress=False)
    assert pairs.observation_fields == (ObservationField("goal", [1]), ObservationField("near", [2]))
    loaded = minari_obd.load_dataset("made")
    assert loaded.observation_fields == pairs.observation_fields
    assert json.loads(Path("made/obd.json").read_text())["format"] == 3
    assert "| `observation[1:3]` | `near` | shape (2,) |" in dataset_card(loaded, "org/name")
    policy = minari_obd.clone(loaded)
    policy = minari_obd.load_policy(policy.save("policy.safetensors"))
    seen, _ = Hand().reset(seed=0)
    flat = np.asarray(gym.spaces.flatten(Hand.observation_space, seen))
    np.testing.assert_array_equal(policy(seen), policy(flat))
    np.testing.assert_array_equal(policy.predict(stacked([seen, seen]))[0], policy(np.stack([flat, flat])))
    both: Any = stacked([seen, seen])
    np.testing.assert_array_equal(policy.act_each(both), policy.act_each(np.stack([flat, flat])))
    for one in (seen, flat.tolist()):
        with pytest.raises(DataError, match=r"takes observations \(B, 3\); got \(3,\)"):
            policy.act_each(cast(Any, one))
    assert minari_obd.evaluate(policy, episodes=2).returns.tolist() == [[5.0, 5.0]]


def test_sets_of_flat_observations_stay_readable_for_older_versions() -> None:
    make_pairs().save("made")
    stored = json.loads(Path("made/obd.json").read_text())
    assert stored["format"] == 2
    assert "observation_fields" not in stored
    assert "plugins" not in stored["provenance"]
    with pytest.raises(DataError, match="other than 3 columns"):
        replace(make_pairs(), observation_fields=(ObservationField("goal", [2]),))
