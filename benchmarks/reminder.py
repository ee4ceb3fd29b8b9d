"""Two choices of fine-tuning, measured on a distilled set: python benchmarks/reminder.py REF.

What a student loses that is trained on its own pairs beyond its protocol, by Adam at 3e-4 and with no critic; and what
becomes of its returns when the normaliser is folded into its first layer.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

import minari_obd
from minari_obd.cloning.policy import Policy
from minari_obd.sources.scaling import Normaliser
from minari_obd.students.networks import make_student


def train_further(pairs: minari_obd.DistilledDataset, *, clones: int = 3, episodes: int = 4) -> None:
    """Print score and mean squared error after so many updates."""
    policy = minari_obd.clone(pairs, students=clones)
    states, actions = (torch.tensor(each) for each in pairs.normalised())
    student = make_student(policy.protocol)
    parameters = [each.clone().requires_grad_() for each in policy.parameters]
    optimiser, done = torch.optim.Adam(parameters, lr=3e-4), 0
    for updates in (0, 100, 500, 2_000):
        for _ in range(updates - done):
            optimiser.zero_grad()
            ((student.apply(parameters, states) - actions) ** 2).mean(dim=(1, 2)).sum().backward()
            optimiser.step()
        done = updates
        with torch.no_grad():
            error = ((student.apply(parameters, states) - actions) ** 2).mean()
        further = replace(policy, parameters=[each.detach() for each in parameters])
        score = minari_obd.evaluate(further, episodes=episodes).score
        print(f"{updates:5d} updates: score {score}, mean squared error {float(error):.2f}", flush=True)


def fold(policy: Policy) -> Policy:
    """Return the policy with its normaliser in the weights of its first layer, computed in double precision."""
    mean, scale = (torch.tensor(each, dtype=torch.float64) for each in vars(policy.normaliser).values())
    weight, bias = (each.double() for each in policy.parameters[:2])
    folded = [(weight / scale[:, None]).float(), (bias - (mean / scale) @ weight).float(), *policy.parameters[2:]]
    return replace(policy, parameters=folded, normaliser=Normaliser(np.zeros(len(mean)), np.ones(len(mean))))


def main() -> None:
    """Measure both."""
    torch.set_num_threads(1)
    pairs = minari_obd.load_dataset(sys.argv[1])
    policy = minari_obd.clone(pairs)
    folded = fold(policy)
    change = np.abs(policy(pairs.observations) - folded(pairs.observations)).max()
    returns = [minari_obd.evaluate(each, episodes=5).returns for each in (policy, folded)]
    print(f"folded: actions change by {change:.1e}, returns by up to {np.abs(returns[0] - returns[1]).max():.0f}")
    train_further(pairs)


if __name__ == "__main__":
    main()
