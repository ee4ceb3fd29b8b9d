"""Sets whose student states come from the real environment: what a perfect dynamics model would be worth.

    python benchmarks/real_states.py out/real.jsonl obd-bench/halfcheetah/medium-v0 [--seeds 0 1 2] [--size 256]

This uses the environment, which offline distillation may not: an upper bound, and no method. The simulator takes the
ensemble's place, one step of it for each predicted one, so that all else is the same. Only environments whose
observation is their state can be used: HalfCheetah, Hopper and Walker2d.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_obd.distillation.distillation import distill
from minari_obd.dynamics.ensemble import Prediction
from minari_obd.dynamics.fitting import DynamicsRun
from minari_obd.environments.making import make_environment
from minari_obd.environments.states import hidden_positions
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.scores.estimates import estimate_mean
from minari_obd.settings.recipe import parse_recipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.support.tables import markdown_table


class Simulator:
    """The environment itself in the ensemble's place: one member that is never wrong."""

    members = 1
    unexplained = 0.0

    def __init__(self, data: OfflineData) -> None:
        assert data.env_id is not None
        self.data, self.environment = data, make_environment(data.env_id).unwrapped
        self.hidden = hidden_positions(self.environment, data.env_id)
        self.limit, self.low = torch.tensor(torch.inf), torch.zeros(1)
        self.details = {"simulator": data.env_id}
        self.environment.reset(seed=0)

    def to(self, _: torch.device) -> "Simulator":
        """Return itself: there is no device."""
        return self

    def step(self, states: Tensor, actions: Tensor) -> Prediction:
        """Take one step from each of the states (1, B, S), which are normalised, by actions (1, B, A) on [-1, 1]."""
        found = []
        raw = self.data.normaliser.denormalise(states[0].numpy())
        for observation, action in zip(raw, self.data.action_scale.unscale(actions[0].numpy()), strict=True):
            found.append(self._step(observation, action))
        following, rewards, ends = (np.array(part, np.float32) for part in zip(*found, strict=True))
        normal = torch.from_numpy(self.data.normaliser.normalise(following))
        earned, over = (torch.from_numpy(each)[None] for each in (rewards, ends))
        return Prediction(normal[None], earned, over, torch.zeros(1, len(found)))

    def _step(self, observation: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        env: Any = self.environment
        state = np.concatenate([env.init_qpos[: self.hidden], observation.astype(np.float64)])
        env.set_state(state[: env.model.nq], state[env.model.nq :])
        following, reward, is_end, *_ = env.step(action)
        return following, reward, is_end


def make(source: str, size: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Make a set with real student states, and judge it over 20 episodes."""
    data = load_offline_data(source, progress=False)
    simulator, fit = Simulator(data), DynamicsRun.fit
    # A share of its own, so that the states are used wherever the teacher goes, and the checkpoint has another name.
    given = {"student_states": {"share": 0.25, "dynamics_seed": 1_000}, **settings}
    recipe = parse_recipe({"source": source, **given}, "--settings")
    DynamicsRun.fit = lambda *_, **__: simulator  # pyright: ignore[reportAttributeAccessIssue]  # for this run alone
    try:
        pairs = distill(data, "vgd", size=size, seed=seed, recipe=recipe, progress=False)
    finally:
        DynamicsRun.fit = fit
    report = evaluate(pairs, students=2, episodes=10, seed=seed)
    line = {"source": source, "size": size, "seed": seed, "settings": settings}
    return {**line, "scores": np.round(report.scores.ravel(), 3).tolist()}


def main() -> None:
    """Make what is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--settings", type=json.loads, default={})
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    there = [[line[name] for name in ("source", "size", "seed", "settings")] for line in lines]
    for source in given.sources:
        for seed in given.seeds:
            if [source, given.size, seed, given.settings] in there:
                continue
            line = make(source, given.size, seed, given.settings)
            lines.append(line)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    groups: dict[str, list[Any]] = {}
    for line in lines:
        groups.setdefault(f"{line['source']}, {line['size']} pairs {line['settings'] or ''}", []).append(line["scores"])
    rows = [[name, str(len(sets)), str(estimate_mean(np.array(sets)))] for name, sets in groups.items()]
    print(markdown_table(["data", "seeds", "score"], rows))


if __name__ == "__main__":
    main()
