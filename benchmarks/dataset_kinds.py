"""Try a small dataset of each of Minari's namespaces, and print docs/datasets.md.

    python benchmarks/dataset_kinds.py > docs/datasets.md

A dataset of a namespace is recorded here in its environment with random actions, where the environment can be made,
and otherwise drawn from its spaces. It is loaded, distilled into eight pairs and, where there is an environment,
evaluated, all with tiny budgets: what is tried is whether it works, not how well.
"""

import os
import tempfile
import warnings
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import minari
import numpy as np

from minari_obd.cloning.cloning import clone
from minari_obd.distillation.distillation import distill
from minari_obd.environments.making import is_registered
from minari_obd.errors import MinariObdError
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.minari_datasets import episode_buffer

_STEPS = 40
_PAGE = """# Datasets

What of Minari's datasets can be used. Each row is the result of a small trial: a dataset of that kind is recorded with
random actions in its environment or, where that cannot be made on the machine, drawn from its spaces. Then it is
loaded, distilled into eight pairs, and evaluated. `python benchmarks/dataset_kinds.py > docs/datasets.md` repeats the
trials and writes this page. It says whether something works, and nothing of how well.

"""
_NOTES = """
- Gymnasium-Robotics (`pip install 'minari-obd[robotics]'`) brings the mazes, hands and kitchens. Its release 1.4 states
  Gymnasium 1.2 as its least version, and d3rlpy, which trains teachers, pins 1.0.0. The mazes and hands work with both:
  `pip install --no-deps gymnasium-robotics==1.4.2 pettingzoo` beside the extra `distill`.
- **Images** are refused where data is read and where an environment is made. Distil an encoder's features instead.
- MiniGrid's observations hold a text, the mission, whose letters are flattened to columns of numbers. That is seldom
  what is wanted: wrap the environment so that observations are the grid alone.
- Data that was collected with other settings than those registered for its environment names none, such as that
  of D4RL/pointmaze; see [sources](sources.md). Register one with these settings, and name it.
"""


@dataclass(frozen=True)
class Kind:
    """One kind of datasets."""

    namespace: str
    env_id: str
    """An environment of the namespace."""
    observations: gym.Space
    """As the environment has them; drawn from where it cannot be made."""
    actions: gym.Space


def _box(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, shape)


def _acts(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-1.0, 1.0, (size,), np.float32)


def _goals(goal: int, size: int) -> gym.spaces.Dict:
    return gym.spaces.Dict({"achieved_goal": _box(goal), "desired_goal": _box(goal), "observation": _box(size)})


_MINIGRID = gym.spaces.Dict(
    {
        "direction": gym.spaces.Discrete(4),
        "image": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "mission": gym.spaces.Text(64),
    }
)
_TASKS = {"microwave": 1, "kettle": 7, "light switch": 2, "slide cabinet": 1}
_TASK_SPACE = gym.spaces.Dict({name: _box(size) for name, size in _TASKS.items()})
KINDS = (
    *(
        Kind(f"mujoco/{env_id[:-3].lower()}", env_id, _box(size), _acts(actions))
        for env_id, size, actions in (
            ("HalfCheetah-v5", 17, 6),
            ("Hopper-v5", 11, 3),
            ("Walker2d-v5", 17, 6),
            ("Ant-v5", 105, 8),
            ("Swimmer-v5", 8, 2),
            ("Reacher-v5", 10, 2),
            ("Pusher-v5", 23, 7),
            ("InvertedPendulum-v5", 4, 1),
            ("InvertedDoublePendulum-v5", 9, 1),
            ("Humanoid-v5", 348, 17),
            ("HumanoidStandup-v5", 348, 17),
        )
    ),
    Kind("D4RL/pointmaze", "PointMaze_UMaze-v3", _goals(2, 4), _acts(2)),
    Kind("D4RL/antmaze", "AntMaze_UMaze-v5", _goals(2, 105), _acts(8)),
    Kind("D4RL/pen", "AdroitHandPen-v1", _box(45), _acts(24)),
    Kind("D4RL/door", "AdroitHandDoor-v1", _box(39), _acts(28)),
    Kind("D4RL/hammer", "AdroitHandHammer-v1", _box(46), _acts(26)),
    Kind("D4RL/relocate", "AdroitHandRelocate-v1", _box(39), _acts(30)),
    Kind(
        "D4RL/kitchen",
        "FrankaKitchen-v1",
        gym.spaces.Dict({"achieved_goal": _TASK_SPACE, "desired_goal": _TASK_SPACE, "observation": _box(59)}),
        _acts(9),
    ),
    Kind("D4RL/minigrid", "MiniGrid-FourRooms-v0", _MINIGRID, gym.spaces.Discrete(7)),
    Kind("minigrid/*, minigrid/BabyAI-*", "MiniGrid-Empty-5x5-v0", _MINIGRID, gym.spaces.Discrete(7)),
    Kind("atari/*", "ALE/Pong-v5", gym.spaces.Box(0, 255, (210, 160, 3), np.uint8), gym.spaces.Discrete(6)),
)


def _made(kind: Kind) -> tuple[gym.Env | None, str]:
    """The environment, or why it cannot be made here."""
    try:
        if not is_registered(kind.env_id):
            return None, "its environment is not installed here"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gym.make(kind.env_id), ""
    except MinariObdError:
        return None, "its environment is not installed here"
    except Exception as error:  # a simulator of another version may raise anything
        told = str(error).split("\n")[0][:100] or type(error).__name__
        return None, f"its environment cannot be made here ({told})"


def record(kind: Kind, environment: gym.Env | None) -> str:
    """Store a dataset of the kind in the Minari folder, and return its id."""
    observed = environment.observation_space if environment else kind.observations
    acted = environment.action_space if environment else kind.actions
    observed.seed(0)
    acted.seed(0)
    seen, actions, rewards = [environment.reset(seed=0)[0] if environment else observed.sample()], [], []
    for _ in range(_STEPS):
        action = acted.sample()
        following = environment.step(action)[:2] if environment else (observed.sample(), 0.0)
        seen.append(following[0])
        actions.append(action)
        rewards.append(float(following[1]))
    buffer = episode_buffer(
        _stacked(seen), np.stack(actions), np.array(rewards), np.zeros(_STEPS, bool), np.arange(_STEPS) == _STEPS - 1
    )
    told: dict[str, Any] = dict.fromkeys(("algorithm_name", "author", "author_email", "code_permalink"), "x")
    told |= {"description": "x", "requirements": [], "observation_space": observed, "action_space": acted}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("trial/kind-v0", [buffer], env=environment, **told)
    return "trial/kind-v0"


def _stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _stacked([value[name] for value in values]) for name in values[0]}
    return values if isinstance(values[0], str) else np.stack(values)


def try_kind(kind: Kind) -> list[str]:
    """Return the cells of a row: namespace, environment, observations, and what works."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["MINARI_DATASETS_PATH"] = folder
        environment, why = _made(kind)
        made = record(kind, environment)
        cells, note = {"loads": "-", "distils": "-", "evaluates": "-"}, why
        size = "-"
        student = StudentProtocol(depth=1, width=8, steps=5, optimiser="adam", learning_rate=0.01)
        settings = DistillationRecipe(steps=2, batch_size=16, evaluate_every=1, initial="random")
        stage = "loads"
        try:
            data = load_offline_data(made)
            cells["loads"], size = "yes", f"{data.observations.shape[1]}"
            stage = "distils"
            pairs = distill(data, recipe=Recipe(made, "dbc", 8, student=student, distillation=settings), progress=False)
            cells["distils"] = "yes"
            if environment is not None:
                stage = "evaluates"
                report = evaluate(clone(replace(pairs, env_id=kind.env_id)), episodes=1, workers=1)
                cells["evaluates"] = "yes" if report.success is None else "yes, with success"
        except MinariObdError as error:
            cells[stage], note = "refused", str(error)
        if environment is not None:
            environment.close()
    return [f"`{kind.namespace}`", f"`{kind.env_id}`", size, *cells.values(), note or "-"]


def row(cells: list[str]) -> str:
    """Return a row of the table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Try every kind and print the page."""
    titles = ["namespace", "tried", "columns", "loads", "distils", "evaluates", "note"]
    rows = [row(titles), row(["---"] * len(titles)), *(row(try_kind(kind)) for kind in KINDS)]
    print(_PAGE + "\n".join(rows) + "\n" + _NOTES, end="")


if __name__ == "__main__":
    main()
