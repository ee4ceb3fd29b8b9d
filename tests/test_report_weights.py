"""Pictures of weights in a report: from the very targets that pairs were distilled towards."""

import shutil
from pathlib import Path

import pytest
from test_report import HOPPER, SMALL, images

from minari_obd.densities.picture import draw_weights
from minari_obd.distillation.distillation import build_targets
from minari_obd.distillation.preparation import prepare
from minari_obd.experiments import weights as report_weights
from minari_obd.experiments.bench import run_grid
from minari_obd.experiments.cell import load_results
from minari_obd.experiments.grid import Grid
from minari_obd.experiments.report import write_report
from minari_obd.experiments.weights import draw_sets_weights
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.teachers.loading import load_teacher


def test_weights_are_drawn_from_the_targets_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    BENCHMARK[HOPPER].build(steps=600, progress=False)
    run_grid(Grid([HOPPER], ["random", "pbc", "av_pbc", "opw"], [8], [0], SMALL), "out", progress=False)
    monkeypatch.setenv("MUJOCO_GL", "none")  # a renderer that does not exist
    results = [each for each in load_results(Path("out")) if each.set_key is not None]
    keys = {each.method: each.set_key for each in results}
    draw_sets_weights(Path("out"), results, progress=False)
    pictures = {method: Path(f"out/weights/{key}.png").read_bytes() for method, key in keys.items()}
    assert pictures["random"] == pictures["pbc"] == b""  # there is nothing to see
    recipe = parse_recipe(Recipe(HOPPER, method="opw").to_json() | SMALL, "the test")
    teacher = load_teacher(next(Path("out/teachers").iterdir()))
    targets = build_targets(prepare(recipe, teacher=teacher, progress=False), teacher, None)
    assert pictures["opw"] == draw_weights(targets.states, targets.weights)
    with monkeypatch.context() as once:
        once.setattr(report_weights, "draw_weights", lambda *_: pytest.fail("drawn again"))
        draw_sets_weights(Path("out"), results, progress=False)
    page = write_report("out", progress=False).read_text()
    assert f"{HOPPER}: opw, seed 0" in page
    assert "Where the weights lie" in page
    assert "weights" in images(page)
    # A teacher that was brought is found where the recipe says, if it is the one.
    shutil.move("out/teachers", "elsewhere")
    brought = next(Path("elsewhere").iterdir())
    run_grid(
        Grid([HOPPER], ["opw"], [8], [0], SMALL | {"teacher": {"algorithm": str(brought)}}), "other", progress=False
    )
    other = [each for each in load_results(Path("other")) if each.set_key is not None]
    draw_sets_weights(Path("other"), other, progress=False)
    assert Path(f"other/weights/{other[0].set_key}.png").read_bytes().startswith(b"\x89PNG")
    # Without its teacher a set's weights are not known any more.
    shutil.rmtree("out/weights")
    draw_sets_weights(Path("out"), results, progress=False)
    assert Path(f"out/weights/{keys['opw']}.png").read_bytes() == b""
    assert "Where the weights lie" not in write_report("out", progress=False).read_text()
