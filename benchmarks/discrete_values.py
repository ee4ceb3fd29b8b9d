"""Double DQN with CQL's penalty on one dataset by several settings at once: what values and greedy policies become.

    python benchmarks/discrete_values.py obd-bench/acrobot/medium-replay-v0 --updates 12000 --every 2000
        --settings '[{"rate": 0.0003, "interval": 100}, {"interval": 30, "norm": true}]'

A setting has ``penalty`` (1), ``rate`` (0.001), ``interval`` (100), updates between copies of the targets, and
``norm`` (false), layer norm before both relus. Networks have two layers of 128, batches 128 transitions. All settings
see the same batches. At every look: return of the greedy policy over six episodes, the values of the data's actions
with the least and the highest of all, the mean gap between a state's best and worst action, and the correlation of
values with the data's discounted returns.
"""

import argparse
import json
from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, smooth_l1_loss

from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import transitions

DEFAULTS = {"penalty": 1.0, "rate": 1e-3, "interval": 100, "norm": False}
GAMMA, BATCH, LOOKED_AT, EPISODES = 0.99, 128, 4_000, 6


def values_of(weights: list[Tensor], norm: Tensor, states: Tensor) -> Tensor:
    """Values (C, B, n) by C networks for states (B, S) or (C, B, S)."""
    features = states.expand(len(weights[0]), -1, -1)
    for i in (0, 2):
        features = torch.baddbmm(weights[i + 1], features, weights[i])
        features = torch.relu(torch.where(norm, layer_norm(features, features.shape[-1:]), features))
    return torch.baddbmm(weights[5], features, weights[4])


def greedy_returns(weights: list[Tensor], norm: Tensor, env_id: str, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mean return (C,) of each network's greedy policy from seeds 0, 1, ..."""
    count = len(weights[0])
    envs = [[gym.make(env_id) for _ in range(EPISODES)] for _ in range(count)]
    states = np.array([[env.reset(seed=seed)[0] for seed, env in enumerate(row)] for row in envs])
    totals, lives = np.zeros((count, EPISODES)), np.ones((count, EPISODES), bool)
    while lives.any():
        inputs = torch.from_numpy(((states - mean) / scale).astype(np.float32))
        actions = values_of(weights, norm, inputs).argmax(-1).numpy()
        for at in zip(*np.nonzero(lives), strict=True):
            states[at], reward, terminated, truncated, _ = envs[at[0]][at[1]].step(int(actions[at]))
            totals[at] += float(reward)
            lives[at] = not (terminated or truncated)
    return totals.mean(axis=1)


def main() -> None:
    """Train, and print a line for each setting at every look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--settings", type=json.loads, default=[{}])
    parser.add_argument("--updates", type=int, default=12_000)
    parser.add_argument("--every", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=128)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, data = np.random.default_rng(0), load_offline_data(given.source, progress=False)
    assert data.env_id is not None
    table = {name: torch.from_numpy(column) for name, column in transitions(data, GAMMA).items()}
    table["actions"] = table["actions"].argmax(1, keepdim=True)
    settings = [{**DEFAULTS, **each} for each in given.settings]
    count, outputs = len(settings), data.actions.shape[1]
    penalty, rate, norm = (
        torch.tensor([each[name] for each in settings]).view(count, 1, 1) for name in ("penalty", "rate", "norm")
    )
    sizes, weights = [data.observations.shape[1], given.width, given.width, outputs], []
    for inputs, units in pairwise(sizes):
        bound = inputs**-0.5
        weights += [torch.empty(count, i, units).uniform_(-bound, bound).requires_grad_() for i in (inputs, 1)]
    targets = [weight.detach().clone() for weight in weights]
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    probe = torch.from_numpy(rng.choice(len(table["rewards"]), LOOKED_AT, replace=False))
    for update in range(1, given.updates + 1):
        rows = torch.from_numpy(rng.integers(len(table["rewards"]), size=BATCH))
        batch = {name: column[rows] for name, column in table.items()}
        with torch.no_grad():
            following = batch["next_observations"]
            best = values_of(weights, norm, following).argmax(-1, keepdim=True)
            later = values_of(targets, norm, following).gather(-1, best)
            wanted = batch["rewards"] + GAMMA * (1.0 - batch["terminals"]) * later
        values = values_of(weights, norm, batch["observations"])
        taken = values.gather(-1, batch["actions"].expand(count, -1, -1))
        error = smooth_l1_loss(taken, wanted, reduction="none") + penalty * (values.logsumexp(-1, keepdim=True) - taken)
        gradients = torch.autograd.grad(error.mean((1, 2)).sum(), weights)
        with torch.no_grad():
            for weight, gradient, (first, second) in zip(weights, gradients, moments, strict=True):
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.001)
                weight -= rate * first / (1 - 0.9**update) / ((second / (1 - 0.999**update)).sqrt() + 1e-8)
            for c, each in enumerate(settings):
                if update % each["interval"] == 0:
                    for target, weight in zip(targets, weights, strict=True):
                        target[c] = weight[c]
            if update % given.every == 0:
                values = values_of(weights, norm, table["observations"][probe])
                taken = values.gather(-1, table["actions"][probe].expand(count, -1, -1))[..., 0]
                found = greedy_returns(weights, norm, data.env_id, data.normaliser.mean, data.normaliser.scale)
                for c, each in enumerate(given.settings):
                    related = np.corrcoef(taken[c], table["returns_to_go"][probe, 0])[0, 1]
                    print(
                        f"{update:,} {json.dumps(each)}: return {found[c]:.1f}, value {taken[c].mean():.1f} "
                        f"[{values[c].min():.1f}, {values[c].max():.1f}], "
                        f"gap {(values[c].amax(-1) - values[c].amin(-1)).mean():.3f}, correlation {related:.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
