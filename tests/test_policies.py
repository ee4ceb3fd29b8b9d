"""Policies as people use them: as a module, an ONNX file, a repository; with other libraries."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_discrete, make_pairs, make_teacher
from hub_server import HubServer

import minari_obd
from minari_obd.cloning.folder import CONFIG_FILE, METADATA_FILE, WEIGHTS_FILE
from minari_obd.errors import FormatError, MinariObdError, NotFoundError, SettingError
from minari_obd.scores.report import EvaluationReport
from minari_obd.sources.collecting import collect
from minari_obd.sources.fields import ObservationField
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.hub import OtherKindError
from minari_obd.support.streams import Stream

REPO = "lab/policy"
ROWS = np.random.default_rng(0).normal(2.0, 3.0, (50, 3)).astype(np.float32)


def policies() -> dict[str, minari_obd.Policy]:
    """A continuous one, a residual one of three students, one of discrete actions, 5 to 7, and infinitely wide ones."""
    residual = minari_obd.StudentProtocol(network="residual", depth=2, width=8, steps=5)
    return {
        "continuous": minari_obd.clone(make_pairs()),
        "residual": minari_obd.clone(make_pairs(), students=3, protocol=residual),
        "discrete": minari_obd.clone(make_discrete(), students=2),
        "kernel": minari_obd.clone(make_pairs(), students=2, protocol="kernel"),
    }


def bits(policy: minari_obd.Policy) -> bytes:
    return policy(ROWS).tobytes()


@pytest.mark.parametrize("kind", ["continuous", "residual", "discrete", "kernel"])
def test_a_module_takes_and_gives_raw_units(kind: str) -> None:
    policy = policies()[kind]
    with torch.no_grad():
        together, one = policy.module(torch.from_numpy(ROWS)).numpy(), policy.module(torch.from_numpy(ROWS[0])).numpy()
    np.testing.assert_allclose(together, policy(ROWS), atol=1e-6)
    np.testing.assert_allclose(one, policy(ROWS[0]), atol=1e-6)
    assert together.dtype == (np.int64 if kind == "discrete" else np.float32)
    before = bits(policy)
    with torch.no_grad():
        policy.module.weights[0].mul_(2.0)  # it is the user's, and the policy stays
    assert bits(policy) == before


@pytest.mark.parametrize("kind", ["continuous", "residual", "discrete", "kernel"])
def test_a_folder_brings_everything_back(kind: str) -> None:
    policy = policies()[kind].with_evaluation(EvaluationReport(np.ones((2, 3)), "Hopper-v5", 0))
    folder = policy.save_pretrained("made/policy")
    again, from_file = minari_obd.load_policy(folder), minari_obd.load_policy(policy.save("policy.safetensors"))
    for each in (again, from_file):
        assert bits(each) == bits(policy)
        assert each.lineage == policy.lineage
        assert (each.protocol, each.env_id, each.reference) == (policy.protocol, policy.env_id, policy.reference)
        assert each.evaluation is not None
        assert each.evaluation.to_json() == policy.evaluation.to_json()  # pyright: ignore[reportOptionalMemberAccess]
    state = policy.module.state_dict()
    import safetensors.torch

    stored = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    assert set(stored) == set(state)
    assert all(torch.equal(stored[name], state[name]) for name in stored)
    policy.save_pretrained("made/policy")  # a policy replaces a policy
    (folder / "mine.txt").write_text("")
    with pytest.raises(SettingError, match="not the folder of a policy alone"):
        policy.save_pretrained("made/policy")


def test_the_lineage_says_what_was_cloned_and_nothing_of_this_machine() -> None:
    pairs = minari_obd.load_dataset(make_pairs().save("secret-place/pairs"))
    assert pairs.origin is not None
    policy = minari_obd.clone(minari_obd.load_dataset("shelf/halfcheetah-medium-256"), seed=3)
    (used,) = policy.lineage.pairs
    assert (used.origin, used.size, policy.lineage.seed) == ("shelf/halfcheetah-medium-256", 256, 3)
    first = minari_obd.clone(pairs, seed=1)
    second = minari_obd.clone(make_pairs(seed=1), start=first, seed=2)
    assert [each.sha256 for each in second.lineage.pairs] == [pairs.content_sha256, make_pairs(1).content_sha256]
    assert second.lineage.sources == ("lab/source-v0",)
    folder = second.save_pretrained("out")
    assert not any(b"secret-place" in path.read_bytes() for path in folder.iterdir())
    assert "| lab/source-v0 | 8 | sdw | - |" in (folder / "README.md").read_text()


def test_a_policy_is_pushed_once_pinned_and_read_back(hub: HubServer) -> None:
    older, newer = policies()["continuous"], policies()["residual"]
    report = EvaluationReport(np.full((1, 4), 7.0), "Hopper-v5", 0)
    address = older.with_evaluation(report).push_to_hub(REPO, license="mit")
    stored = f"models/{REPO}"
    assert address == f"{hub.url}/{REPO}/commit/{hub.commits(stored)[-1]}"
    older.with_evaluation(report).push_to_hub(REPO, license="mit")
    assert len(hub.commits(stored)) == 2  # made empty, then one commit
    first = hub.commits(stored)[-1]
    card = hub.files(stored)["README.md"].decode()
    assert 'license: "mit"' in card
    assert "| interquartile mean of returns | 7.0 |" in card
    newer.push_to_hub(REPO)
    assert set(hub.files(stored)) == {".gitattributes", CONFIG_FILE, WEIGHTS_FILE, METADATA_FILE, "README.md"}
    assert bits(minari_obd.load_policy(REPO)) == bits(newer)
    for pinned in (minari_obd.load_policy(REPO, revision=first), minari_obd.load_policy(f"{REPO}@{first}")):
        assert bits(pinned) == bits(older)
        assert pinned.origin == f"{REPO}@{first}"
        assert pinned.lineage.license == "mit"
    with pytest.raises(SettingError, match="names a revision already"):
        minari_obd.load_policy(f"{REPO}@{first}", revision="main")
    with pytest.raises(NotFoundError, match="no model repository"):
        minari_obd.load_policy("lab/none")


def test_repositories_of_others_stay_what_they_are(hub: HubServer) -> None:
    policy = policies()["continuous"]
    hub.commit(f"models/{REPO}", {CONFIG_FILE: b"{}", WEIGHTS_FILE: b"a language model"})
    with pytest.raises(SettingError, match="something other than a policy"):
        policy.push_to_hub(REPO)
    with pytest.raises(OtherKindError, match=f"not a policy: it has no {METADATA_FILE}"):
        minari_obd.load_policy(REPO)
    make_pairs().push_to_hub("lab/pairs")
    with pytest.raises(NotFoundError, match="`load_dataset` loads"):
        minari_obd.load_policy("lab/pairs")
    policy.push_to_hub("lab/cloned")
    with pytest.raises(NotFoundError, match="`load_policy` or `load_teacher` loads"):
        minari_obd.load_dataset("lab/cloned")


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


HOSTILE = {
    "unknown field": (CONFIG_FILE, {"auto_map": {"AutoModel": "evil.py--Model"}}, "damaged at auto_map"),
    "code": (METADATA_FILE, {"__import__": "os"}, "damaged at __import__"),
    "wrong kind": (CONFIG_FILE, {"width": "8"}, "damaged at width"),
    "wrong shape": (CONFIG_FILE, {"observation_size": 4}, r"mean is torch.float32 of shape \(3,\)"),
    "huge": (CONFIG_FILE, {"students": 10**12}, "weights.0 is"),
    "negative": (CONFIG_FILE, {"action_size": -1}, "sizes that no policy has"),
    "other network": (CONFIG_FILE, {"network": "residual"}, "name different networks"),
    "discrete": (CONFIG_FILE, {"first_action": 0}, "does not go with first_action 0"),
    "newer": (METADATA_FILE, {"format": 2}, "policy format 2"),
    "another's weights": (METADATA_FILE, {"weights_sha256": "0" * 64}, "does not match its hash"),
    "colon": (METADATA_FILE, {"env_id": 3}, "damaged at env_id"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_policy_is_refused_with_a_sentence(case: str) -> None:
    folder = policies()["continuous"].save_pretrained("policy")
    name, values, said = HOSTILE[case]
    change(folder, name, **values)
    with pytest.raises(FormatError, match=said):
        minari_obd.load_policy(folder)


@pytest.mark.parametrize("case", ["nan", "half", "missing", "more", "pickle"])
def test_hostile_weights_are_refused(case: str) -> None:
    import hashlib

    from safetensors.torch import load, save_file

    folder = policies()["continuous"].save_pretrained("policy")
    tensors = load((folder / WEIGHTS_FILE).read_bytes())
    if case == "pickle":
        torch.save(tensors, folder / WEIGHTS_FILE)
    else:
        changed = {
            "nan": {"weights.0": tensors["weights.0"] * float("nan")},
            "half": {"weights.1": tensors["weights.1"].half()},
            "missing": {},
            "more": {"extra": torch.zeros(1)},
        }[case]
        kept = {name: each for name, each in tensors.items() if (case, name) != ("missing", "scale")}
        save_file({**kept, **changed}, folder / WEIGHTS_FILE)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    change(folder, METADATA_FILE, weights_sha256=digest)
    said = {"nan": "not finite", "half": "float16", "pickle": "cannot be read"}.get(case, "too many")
    with pytest.raises(FormatError, match=said):
        minari_obd.load_policy(folder)


def test_an_unknown_student_network_names_itself() -> None:
    folder = policies()["continuous"].save_pretrained("policy")
    student = json.loads((folder / METADATA_FILE).read_text())["student"]
    change(folder, CONFIG_FILE, network="theirs")
    change(folder, METADATA_FILE, student={**student, "network": "theirs"})
    with pytest.raises(NotFoundError, match="no student network 'theirs'"):
        minari_obd.load_policy(folder)


def test_states_that_are_numbers_are_taken_as_such() -> None:
    policy = replace(policies()["continuous"], observation_fields=(ObservationField("", [], 3, 4),))
    rows = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(policy.predict(np.array([6, 4]))[0], policy(rows[[2, 0]]))
    np.testing.assert_array_equal(policy.predict(np.int64(5))[0], policy(rows[1]))


def test_numbers_are_drawn_by_their_probabilities_unless_the_likeliest_is_wanted() -> None:
    policy = policies()["discrete"]
    rows = np.repeat(ROWS[:1], 4_000, axis=0)
    chances = policy.act_each(ROWS[:1]).mean(axis=0)[0]
    torch.manual_seed(0)
    drawn, state = policy.predict(rows, "kept", deterministic=False)
    assert state == "kept"
    np.testing.assert_allclose(np.bincount(drawn - 5, minlength=3) / 4_000, chances, atol=0.04)
    torch.manual_seed(0)
    np.testing.assert_array_equal(policy.predict(rows, deterministic=False)[0], drawn)
    assert (policy.predict(rows)[0] == 5 + chances.argmax()).all()
    assert policy.predict(ROWS[0], deterministic=False)[0] in (5, 6, 7)
    continuous = policies()["continuous"]
    np.testing.assert_array_equal(continuous.predict(ROWS, deterministic=False)[0], continuous(ROWS))


def without_this_package(hub: HubServer, repo: str) -> Callable[[np.ndarray], np.ndarray]:
    """What the card's block makes: a function of huggingface_hub, safetensors and NumPy."""
    card = hub.files(f"models/{repo}")["README.md"].decode()
    block = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert "minari_obd" not in block
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    return namespace["policy"]


def test_a_card_says_how_to_do_without_this_package(hub: HubServer) -> None:
    for kind, policy in policies().items():
        policy.push_to_hub(f"lab/{kind}")
        exact = 2e-3 if kind == "kernel" else 1e-5  # single precision, before large coefficients
        np.testing.assert_allclose(without_this_package(hub, f"lab/{kind}")(ROWS), policy(ROWS), atol=exact)


def test_what_the_mixin_makes_of_a_repository(hub: HubServer) -> None:
    from huggingface_hub import PyTorchModelHubMixin

    class Theirs(torch.nn.Module, PyTorchModelHubMixin):
        """A module that knows nothing of this package."""

        def __init__(self, observation_size: int, action_size: int, students: int, depth: int, width: int) -> None:
            super().__init__()
            for name, size in {"mean": observation_size, "scale": observation_size}.items():
                self.register_buffer(name, torch.zeros(size))
            for name in ("action_low", "action_high"):
                self.register_buffer(name, torch.zeros(action_size))
            sizes = [observation_size, *[width] * depth, action_size]
            shapes = [shape for i, o in pairwise(sizes) for shape in ((i, o), (1, o))]
            self.weights = torch.nn.ParameterList([torch.zeros(students, *shape) for shape in shapes])

    policy = policies()["residual"]
    policy.push_to_hub(REPO)
    theirs, ours = Theirs.from_pretrained(REPO).state_dict(), policy.module.state_dict()
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def on_one_thread(path: Path) -> Any:
    """A session of onnxruntime whose threads do not compete with other tests."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def test_onnxruntime_gives_a_datasets_actions(tmp_path: Path) -> None:
    pairs = minari_obd.load_dataset("shelf/halfcheetah-medium-256")
    collect("lab/halfcheetah-v0", "HalfCheetah-v5", "random", steps=600, progress=False)
    data = minari_obd.load_offline_data("lab/halfcheetah-v0")
    cases = {
        "halfcheetah": (minari_obd.clone(pairs, students=2), data.observations),
        "discrete": (policies()["discrete"], ROWS),
        "residual": (policies()["residual"], ROWS),
    }
    for name, (policy, rows) in cases.items():
        path = policy.to_onnx(f"deep/{name}.onnx")
        session = on_one_thread(path)
        for batch in (rows, rows[:1], rows[:7]):
            (actions,) = session.run(["actions"], {"observations": batch})
            assert actions.shape == policy(batch).shape
            # Coefficients of infinitely wide students reach hundreds, so float32 rounds their sums to about 3e-4.
            np.testing.assert_allclose(actions, policy(batch), atol=1e-3 if name == "halfcheetah" else 1e-5)
        content = path.read_bytes()
        assert not any(place in content for place in (b"minari_obd/", b"site-packages", str(tmp_path).encode()))
    assert sorted(path.name for path in Path("deep").iterdir()) == sorted(f"{name}.onnx" for name in cases)
    with pytest.raises(SettingError, match=r"does not end in \.onnx"):
        policies()["discrete"].to_onnx("policy.bin")


class Predicts:
    """What Stable-Baselines3 evaluates, of a function of a batch."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function = function

    def predict(self, observation: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return self.function(observation.astype(np.float32)), None


class SameStarts(gym.Wrapper):
    """An environment whose episodes start as those of ``evaluate``."""

    def __init__(self, env_id: str, episodes: int) -> None:
        super().__init__(gym.make(env_id))
        self.starts = cycle(Stream.EPISODES.seeds(episodes, 0))

    def reset(self, **_: Any) -> Any:
        return self.env.reset(seed=int(next(self.starts)))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "CartPole-v1"])
def test_one_policy_scores_the_same_everywhere(env_id: str, hub: HubServer) -> None:
    """Pushed, read by huggingface_hub and safetensors alone, by onnxruntime and Stable-Baselines3: equal returns."""
    evaluate_policy = pytest.importorskip("stable_baselines3.common.evaluation").evaluate_policy
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.monitor import Monitor

    pairs = make_pairs(shape=(11, 3)) if env_id == "Hopper-v5" else balancing()
    minari_obd.clone(replace(pairs, env_id=env_id, reference=None), seed=1).push_to_hub(REPO)
    policy = minari_obd.load_policy(REPO)
    session = on_one_thread(policy.to_onnx("policy.onnx"))
    plain = without_this_package(hub, REPO)

    def by_onnx(rows: np.ndarray) -> np.ndarray:
        return session.run(None, {"observations": rows})[0]

    episodes = 2
    expected = minari_obd.evaluate(policy, episodes=episodes).returns[0]
    assert len(set(expected)) > 1
    for subject in (policy, Predicts(by_onnx), Predicts(plain)):
        alone = evaluate_policy(subject, Monitor(SameStarts(env_id, episodes)), episodes, return_episode_rewards=True)[
            0
        ]
        np.testing.assert_allclose(alone, expected, rtol=1e-5)
    together = [
        evaluate_policy(each, make_vec_env(env_id, 2, seed=0), episodes, return_episode_rewards=True)[0]
        for each in (policy, Predicts(by_onnx))
    ]
    np.testing.assert_allclose(together[0], together[1], rtol=1e-5)


def balancing() -> minari_obd.DistilledDataset:
    """Pairs of CartPole by a rule: push where the pole leans and moves."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(64, 4)) * 0.3
    right = states[:, 2] + 0.5 * states[:, 3] > 0
    pairs = make_pairs(size=64, shape=(4, 2))
    protocol = replace(pairs.protocol, network="softmax_mlp", optimiser="adam", learning_rate=0.01, steps=100)
    actions, bounds = np.stack([~right, right], axis=1), {"action_low": np.zeros(2), "action_high": np.ones(2)}
    normaliser = Normaliser.fit(states)
    changes = {"protocol": protocol, "normaliser": normaliser, "first_action": 0, **bounds}
    return replace(pairs, observations=states, actions=actions, **changes)


def test_a_folder_of_another_kind_says_what_it_holds() -> None:
    pairs = make_pairs()
    pairs.save("set")
    minari_obd.clone(pairs).save_pretrained("policy")
    make_teacher().save("teacher")
    loaders = {
        "set": ("a distilled dataset, for load_dataset", minari_obd.load_dataset),
        "policy": ("a policy, for load_policy", minari_obd.load_policy),
        "teacher": ("a teacher, for load_teacher", minari_obd.load_teacher),
    }
    for name, (said, _) in loaders.items():
        for other, (_, load) in loaders.items():
            if other != name:
                with pytest.raises(MinariObdError, match=f"It holds {said}"):
                    load(name)
