"""Critics fitted to a frozen actor (d3rlpy's FQE): do they agree with the data, and what is the gap by them worth?

    python benchmarks/fitted_critics.py obd-bench/walker2d/medium-replay-v0 out/fitted [--updates 30000] [--seed 0]
    minari-obd distill obd-bench/walker2d/medium-replay-v0 --teacher.algorithm out/fitted --out out/pairs
    minari-obd evaluate out/pairs

The folder holds the bundled teacher with these critics in place of its own. What is printed: how both agree with what
followed in the data one step later, and how their values lie beside the data's returns.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch

from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.sources.transitions import transitions
from minari_obd.support.progress import progress_bar
from minari_obd.targets.value_gap import agreement
from minari_obd.teachers.batches import minibatches
from minari_obd.teachers.bundled import bundled_teacher
from minari_obd.teachers.calibration import calibrate
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.networks import Layers, layers_of

GAMMA = 0.99


class Frozen:
    """The actor, as d3rlpy's FQE asks for it: actions on [-1, 1] of the data's normalised states."""

    def __init__(self, teacher: FrozenTeacher, data: OfflineData) -> None:
        self.impl, self._teacher, self._data = self, teacher, data

    def predict_best_action(self, states: torch.Tensor) -> torch.Tensor:
        """Actions (B, A) for states (B, S)."""
        actions = self._teacher.act(self._data.normaliser.denormalise(states.numpy()))
        return torch.from_numpy(self._teacher.action_scale.scale(actions).astype(np.float32))


def in_units_of(teacher: FrozenTeacher, data: OfflineData, critic: Layers) -> Layers:
    """A critic of the data's normalised states as one of the teacher's."""
    (weight, bias, *norm), *rest = critic
    ours, theirs = data.normaliser, teacher.normaliser
    free = np.ones(data.actions.shape[1])
    factor = torch.tensor(np.concatenate([theirs.scale / ours.scale, free]), dtype=torch.float32)
    offset = torch.tensor(np.concatenate([(theirs.mean - ours.mean) / ours.scale, 0.0 * free]), dtype=torch.float32)
    return [(weight * factor, bias + weight @ offset, *norm), *rest]


def fitted(teacher: FrozenTeacher, data: OfflineData, updates: int, seed: int) -> FrozenTeacher:
    """Fit two critics to what the frozen actor is worth, and return it with them."""
    d3rlpy.seed(seed)
    layers = d3rlpy.models.VectorEncoderFactory(hidden_units=[256, 256], use_layer_norm=True)
    config = d3rlpy.ope.FQEConfig(learning_rate=3e-4, encoder_factory=layers, batch_size=256, gamma=GAMMA, n_critics=2)
    stub: Any = Frozen(teacher, data)
    evaluation = d3rlpy.ope.FQE(stub, config)
    evaluation.create_impl((data.observations.shape[1],), data.actions.shape[1])
    columns = {name: torch.from_numpy(column) for name, column in transitions(data, GAMMA).items()}
    batches = minibatches(columns, 256, np.random.default_rng(seed), "cpu:0")
    impl: Any = evaluation.impl
    with progress_bar(updates, "fitting critics", unit="update") as bar:
        for update in range(1, updates + 1):
            impl.update(next(batches), update)
            bar.update()
    critics = [in_units_of(teacher, data, layers_of(each)) for each in impl.modules.q_funcs]
    return replace(teacher, critics=critics, value_from="mean").with_details(critics="fitted", updates=updates)


def main() -> None:
    """Fit, compare and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_offline_data(given.source)
    own = bundled_teacher(given.source)
    new = fitted(own, data, given.updates, given.seed)
    for name, teacher in (("the teacher's own", own), ("fitted", new)):
        print(f"{name}: rank correlation of differences {agreement(teacher, data):.2f}; {calibrate(teacher, data)}")
    print(f"Saved in {new.save(given.out)}")


if __name__ == "__main__":
    main()
