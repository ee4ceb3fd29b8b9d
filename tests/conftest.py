"""Fixtures: every test has its own Minari folder, cache and Hub home; nothing touches the user's."""

from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_home import HOME, HUB
from hub_server import HubServer

from minari_obd.distilled.contents import Transitions
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.provenance import Provenance
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.scaling import Normaliser
from minari_obd.support.precision import has_fast_bfloat16
from minari_obd.teachers.frozen import FrozenTeacher


def pytest_unconfigure() -> None:
    HUB.__exit__()
    HOME.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA, and torch finds none here"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """An empty Hub, and an empty cache of what was downloaded from it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return HUB.reset()


@pytest.fixture(autouse=True, scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine is measured once; let it be before all tests, so that what a test leaves behind is its own."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("MINARI_OBD_CACHE", str(tmp_path_factory.mktemp("cache")))
        has_fast_bfloat16()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("MINARI_OBD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Promises to the bit hold for one number of threads, and tests share their machine."""
    torch.set_num_threads(1)


def make_arrays(lengths: list[int], *, state_size: int = 3, action_size: int = 2, seed: int = 0) -> dict:
    """Flat arrays of episodes whose first observation dimension counts 1000 * episode + step."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    observations = rng.normal(size=(total, state_size))
    following = rng.normal(size=(total, state_size))
    row = 0
    for episode, length in enumerate(lengths):
        steps = 1000 * episode + np.arange(length + 1)
        observations[row : row + length, 0] = steps[:-1]
        following[row : row + length, 0] = steps[1:]
        following[row : row + length - 1] = observations[row + 1 : row + length]
        row += length
    ends = np.cumsum(lengths) - 1
    terminations = np.zeros(total, dtype=bool)
    terminations[ends[::2]] = True
    truncations = np.zeros(total, dtype=bool)
    truncations[ends[1::2]] = True
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, size=(total, action_size)),
        "rewards": rng.normal(size=total),
        "terminations": terminations,
        "truncations": truncations,
        "next_observations": following,
    }


def shrink(monkeypatch: pytest.MonkeyPatch, settings: Any, **smaller: Any) -> None:
    """Give fields of a dataclass other defaults."""
    names = [each.name for each in fields(settings) if each.init]
    defaults: list[Any] = list(settings.__init__.__defaults__)
    for name, value in smaller.items():
        defaults[names.index(name) - len(names)] = value
    monkeypatch.setattr(settings.__init__, "__defaults__", tuple(defaults))


@pytest.fixture
def small_data() -> OfflineData:
    """600 states of a smooth problem: the action is a function of the state."""
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(600, 3)) * [1.0, 5.0, 0.1] + [0.0, 10.0, 0.0]
    truncations = np.zeros(600, dtype=bool)
    truncations[99::100] = True
    following = np.where(truncations[:, None], observations + 0.01, np.roll(observations, -1, axis=0))
    return load_offline_data(
        {
            "observations": observations,
            "actions": np.tanh(np.stack([observations[:, 0], 10 * observations[:, 2]], axis=1)),
            "rewards": rng.uniform(0, 1, 600),
            "terminations": np.zeros(600, dtype=bool),
            "truncations": truncations,
            "next_observations": following,
        }
    )


class RuleTeacher:
    """A teacher that anyone could write: a rule in raw units, and a value."""

    def __init__(self, value: float | None = None) -> None:
        self.constant = value

    def act(self, states: np.ndarray) -> np.ndarray:
        return np.tanh(np.stack([states[:, 0] + 0.2, 5 * states[:, 2]], axis=1)).astype(np.float32)

    def value(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.full(len(states), self.constant) if self.constant is not None else 3.0 + states[:, 0]


def make_pairs(seed: int = 0, *, env_id: str | None = "Hopper-v5", size: int = 8, shape: tuple[int, int] = (3, 2)):
    """A distilled dataset of random numbers, with everything that one has."""
    rng = np.random.default_rng(seed)
    return DistilledDataset(
        observations=rng.normal(size=(size, shape[0])),
        actions=rng.uniform(-2, 4, size=(size, shape[1])),
        normaliser=Normaliser.fit(rng.normal(2.0, 3.0, size=(50, shape[0]))),
        protocol=StudentProtocol(depth=1, width=8, steps=5),
        provenance=Provenance(
            recipe=Recipe("lab/source-v0").to_json(),
            method="sdw",
            source="lab/source-v0",
            source_sha256="0" * 64,
            source_steps=1_000,
            seed=seed,
            package_version="0.0.0",
            created="2026-01-01T00:00:00+00:00",
            teacher={"algorithm": "iql", "steps": 10},
            targets={"alpha": 0.25},
            outer_step=3,
            offline_loss=0.1,
            history=[{"step": 0, "held_out": 0.2}],
        ),
        action_low=np.full(shape[1], -2.0),
        action_high=np.full(shape[1], 4.0),
        env_id=env_id,
        reference=None if env_id is None else ReferenceScores(0.0, 100.0, "made up"),
    )


def make_full(seed: int = 0, *, size: int = 8, shape: tuple[int, int] = (3, 2)) -> DistilledDataset:
    """A distilled dataset that also has what only some have."""
    rng = np.random.default_rng([seed, 1])
    return replace(
        make_pairs(seed, size=size, shape=shape),
        license="cc-by-4.0",
        source_quantiles=np.sort(rng.normal(2.0, 3.0, size=(7, shape[0])), axis=0),
        transitions=Transitions(rng.normal(size=size), rng.normal(size=(size, shape[0])), np.arange(size) % 3 == 0),
        evaluation=EvaluationReport(rng.normal(50, 5, (2, 3)), "Hopper-v5", 0, ReferenceScores(0.0, 99.0, "x")),
    )


def make_discrete(seed: int = 0, *, size: int = 8) -> DistilledDataset:
    """A distilled dataset of three discrete actions, 5 to 7, with everything that one has."""
    pairs = make_full(seed, size=size, shape=(3, 3))
    actions = np.random.default_rng([seed, 2]).dirichlet(np.ones(3), size=size)
    bounds = {"action_low": np.zeros(3), "action_high": np.ones(3)}
    protocol = replace(pairs.protocol, network="softmax_mlp")
    return replace(pairs, actions=actions, protocol=protocol, env_id="Acrobot-v1", first_action=5, **bounds)


def make_teacher(seed: int = 0, *, states: int = 3, **changes: Any) -> FrozenTeacher:
    """A teacher of random weights that has everything but the defaults."""
    generator = torch.Generator().manual_seed(seed)

    def network(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        both = pairwise(sizes)
        return [(torch.randn(o, i, generator=generator), torch.rand(o, generator=generator)) for i, o in both]

    fields: dict[str, Any] = {
        "actor": network(states, 8, 2),
        "critics": [network(states + 2, 8, 1), network(states + 2, 8, 8, 1)],
        "normaliser": Normaliser(np.linspace(-1, 1, states), np.linspace(1, 2, states)),
        "action_low": np.array([-1.0, -2.0]),
        "action_high": np.array([1.0, 0.5]),
        "details": {"algorithm": "calql", "steps": 500, "data": "lab/source-v0", "score": 56.4},
        "value_from": "min",
        "activation": "tanh",
    }
    return FrozenTeacher(**{**fields, **changes})
