"""Nested sets: the first pairs of a set make sets of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RuleTeacher

import minari_obd
from minari_obd.cli.application import main
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distiller.data import OuterData
from minari_obd.distiller.looks import held_out_losses
from minari_obd.distiller.loop import OuterLoop
from minari_obd.distiller.step import jointly
from minari_obd.errors import DataError, SettingError
from minari_obd.inspection.verification import verify
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.settings.recipe import Recipe
from minari_obd.settings.sections import DistillationRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.targets.targets import Targets

STUDENT = StudentProtocol(depth=2, width=64, steps=50, optimiser="adam", learning_rate=0.003)
SETTINGS = DistillationRecipe(steps=8, batch_size=128, evaluate_every=4, kernel_steps=60, precision="float32")
CPU = torch.device("cpu")
QUICK = Recipe(
    "replaced",
    method="pbc",
    student=StudentProtocol(depth=1, width=16, steps=10),
    distillation=DistillationRecipe(kernel_steps=5, steps=2, batch_size=64, evaluate_every=2),
)


def test_several_losses_count_by_their_ratios() -> None:
    losses = [torch.tensor([0.5]), torch.tensor([2.0])]
    torch.testing.assert_close(jointly(losses), torch.tensor([1.0]))
    assert jointly(losses[:1]) is losses[0]
    assert jointly([torch.zeros(1), torch.ones(1)]) > 0  # and so it has a slope


@pytest.mark.parametrize("initial", ["kernel", "kmeans"])
def test_first_pairs_teach_more_where_they_make_a_set(initial: str) -> None:
    states = np.random.default_rng(0).normal(size=(800, 3)).astype(np.float32)
    targets = Targets(states, np.tanh(states[:, :1] * states[:, 1:2]), np.ones(800), {})
    data = OuterData.of(targets, SETTINGS, 0, CPU)
    errors = {}
    for nested in [(), (6,)]:
        settings = replace(SETTINGS, initial=initial, nested=nested, learning_rate=0.03)
        result = OuterLoop(STUDENT, settings, CPU).run(targets, 24, seed=0, progress=False)
        for size in (6, 24):
            pairs = [torch.tensor(each[None, :size]) for each in (result.states, result.actions)]
            (errors[nested, size],) = held_out_losses(pairs, [data], STUDENT, SETTINGS, torch.zeros(1))
        if nested:  # the loss that chooses the pairs is that of both sets
            assert result.offline_loss == pytest.approx((errors[nested, 6] * errors[nested, 24]) ** 0.5, rel=1e-4)
    assert errors[(6,), 6] < 0.8 * errors[(), 6]
    assert errors[(6,), 24] < errors[(6,), 6]


def made(data: OfflineData, **changes) -> DistilledDataset:
    given = {"size": [4, 12], "recipe": QUICK, "teacher": RuleTeacher(), "progress": False}
    return minari_obd.distill(data, **{**given, **changes})


def test_a_set_of_several_sizes_holds_sets_of_the_smaller(small_data: OfflineData) -> None:
    pairs = made(small_data, out="made")
    recipe = pairs.provenance.recipe
    assert (len(pairs), recipe["size"], recipe["distillation"]["nested"]) == (12, 12, [4])
    part = minari_obd.load_dataset("made").first(4)
    np.testing.assert_array_equal(part.observations, pairs.observations[:4])
    np.testing.assert_array_equal(part.actions, pairs.actions[:4])
    part.save("part")
    checks = {each.name: each for each in verify("part").checks}
    assert checks["recipe"].outcome == "passed", checks["recipe"]
    assert len(minari_obd.load_dataset("part")) == 4
    assert "`.first(4)` is a set of its own." in Path("made/README.md").read_text(encoding="utf-8")
    assert "of its own" not in Path("part/README.md").read_text(encoding="utf-8")
    main(["load", "made", "--first", "4", "--out", "again"])
    assert minari_obd.load_dataset("again").content_sha256 == part.content_sha256


def test_other_first_pairs_make_none(small_data: OfflineData) -> None:
    pairs = made(small_data)
    for count in (3, 12, 0):
        with pytest.raises(DataError, match=r"make no set of their own here \(those that do: \[4\]\)"):
            pairs.first(count)
    with pytest.raises(DataError, match="those that do: none"):
        made(small_data, size=12).first(4)


@pytest.mark.parametrize("size", [[12, 12], [0, 12], [4, 4, 12]])
def test_sizes_that_make_no_sets_are_refused(size: list[int], small_data: OfflineData) -> None:
    with pytest.raises(SettingError, match=r"distillation\.nested is"):
        made(small_data, size=size)


def test_a_smaller_set_cannot_hold_larger_ones() -> None:
    with pytest.raises(SettingError, match="must be below the recipe's, 8"):
        Recipe("x", size=8, distillation=DistillationRecipe(nested=(4, 8)))


def test_methods_that_distil_nothing_refuse(small_data: OfflineData) -> None:
    with pytest.raises(SettingError, match="method 'random' takes real pairs and distils none"):
        made(small_data, method="random")


def test_results_without_keep_their_names() -> None:
    assert "nested" not in Recipe("x").deciding()["distillation"]
    nested = Recipe("x", distillation=DistillationRecipe(nested=(16,))).deciding()
    assert nested["distillation"]["nested"] == [16]
