"""The command line: every verb for real, every error a sentence and exit status 2."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_pairs
from hub_server import HubServer

import minari_obd
from minari_obd.cli.application import main
from minari_obd.sources.benchmark import BENCHMARK

TINY = """
source = "obd-bench/hopper/medium-v0"
method = "sdw"
size = 16
[teacher]
algorithm = "td3_bc"
steps = 5
[student]
depth = 1
width = 16
steps = 10
[distillation]
kernel_steps = 5
steps = 4
batch_size = 64
evaluate_every = 2
[evaluation]
students = 2
episodes = 2
whole_data_steps = 5
"""


@pytest.fixture
def hopper() -> str:
    BENCHMARK["obd-bench/hopper/medium-v0"].build(steps=600, progress=False)
    return "obd-bench/hopper/medium-v0"


def test_help_waits_for_nothing_heavy() -> None:
    code = """
import sys
from minari_obd.cli.application import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print([m for m in ("torch", "d3rlpy", "minari", "gymnasium", "huggingface_hub", "pyarrow") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "distill" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_help_on_run_shows_the_options_with_or_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.toml").write_text(TINY)
    for arguments in (["run", "--help"], ["run", "tiny.toml", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "--distillation.kernel-steps {None}|INT" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["run"])
    assert stop.value.code == 2


def test_run_leaves_a_set_a_table_and_says_what_next(hopper: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.toml").write_text(TINY)
    main(["run", "tiny.toml", "--out", "made", "--distillation.steps", "3"])
    captured = capsys.readouterr()
    for text in (
        "random pairs",
        "sdw pairs",
        "whole dataset",
        "(teacher)",
        "score",
        "Next: minari-obd load made",
    ):
        assert text in captured.out
    assert "Plan: 16 pairs by sdw" in captured.err
    made = minari_obd.load_dataset("made")
    assert made.provenance.recipe["distillation"]["steps"] == 3
    assert made.evaluation is not None
    assert len(made.evaluation.returns) == 2
    assert Path("made.results.json").is_file()
    main(["show", "made"])
    assert "Result" in capsys.readouterr().out


def test_distill_load_clone_evaluate(hopper: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["distill", hopper, "--method", "random", "--size", "16", "--out", "made"])
    assert "Next: minari-obd evaluate made" in capsys.readouterr().out
    main(["load", "made"])
    assert "16 (observation, action) pairs" in capsys.readouterr().out
    main(["clone", "made", "--out", "policy.safetensors", "--students", "2"])
    main(["evaluate", "policy.safetensors", "--episodes", "2"])
    assert "2 students x 2 episodes in Hopper-v5" in capsys.readouterr().out
    main(["evaluate", "made", "--students", "1", "--episodes", "1"])
    assert "1 students x 1 episodes in Hopper-v5" in capsys.readouterr().out


def test_distill_names_its_own_folder(hopper: str) -> None:
    main(["distill", hopper, "--method", "random", "--size", "8"])
    assert len(minari_obd.load_dataset("out/obd-bench-hopper-medium-v0-random-8-seed-0")) == 8


def test_no_result_takes_the_place_of_another_one(hopper: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["distill", hopper, "--method", "random", "--size", "8"]
    main([*command, "--out", "made"])
    main(["evaluate", "made", "--students", "1", "--episodes", "1", "--save"])
    before = minari_obd.load_dataset("made")
    main([*command, "--out", "made"])  # the same run again: the same pairs, and what was measured of them
    again = minari_obd.load_dataset("made")
    assert again.evaluation is not None
    assert before.evaluation is not None
    assert np.array_equal(again.evaluation.returns, before.evaluation.returns)
    with pytest.raises(SystemExit) as end:
        main([*command, "--out", "made", "--seed", "1"])
    assert end.value.code == 2
    assert "the result of another run (seed is 0 there and 1 here); give another folder" in capsys.readouterr().err
    assert minari_obd.load_dataset("made").provenance == again.provenance
    main([*command, "--out", "made", "--seed", "1", "--overwrite"])
    assert minari_obd.load_dataset("made").provenance.seed == 1
    assert minari_obd.load_dataset("made").evaluation is None
    main(["clone", "made"])
    with pytest.raises(SystemExit):
        main(["clone", "made", "--seed", "1"])
    assert "There is a file 'policy.safetensors' already" in capsys.readouterr().err
    main(["clone", "made", "--seed", "1", "--overwrite"])


def test_folders_are_named_after_source_and_seed() -> None:
    names = {
        minari_obd.Recipe(source, seed=seed).name
        for source in ("obd-bench/hopper/medium-v0", "obd-bench/hopper/medium-replay-v0")
        for seed in (0, 1)
    }
    assert len(names) == 4
    # An invented path: only the file's own name may be left.
    assert minari_obd.Recipe("/home/me/walk.hdf5", "pbc", 8).name == "walk-pbc-8-seed-0"


# Invented paths, none of which is opened.
@pytest.mark.parametrize("source", ["../s.hdf5", "./s.h5", ".s.hdf5", "/tmp/.s.hdf5", "../s"])
def test_no_folder_is_hidden(source: str) -> None:
    assert minari_obd.Recipe(source, "random", 8).name == "s-random-8-seed-0"


def test_hints_can_be_pasted(hopper: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["distill", hopper, "--method", "random", "--size", "8", "--out", "my pairs"])
    assert "Next: minari-obd evaluate 'my pairs'" in capsys.readouterr().out


def test_collect_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("def act(observation):\n    return observation[:3] * 0\n")
    main(["collect", "lab/zero-v0", "--env", "Hopper-v5", "--policy", "mine:act", "--steps", "20"])
    main(["collect", "obd-bench/hopper/medium-v0", "--steps", "30"])
    capsys.readouterr()
    main(["list"])
    said = capsys.readouterr().out
    for text in (
        "av_pbc",
        "td3_bc",
        "knn, maf, gmm",
        "mlp",
        "hopper-240000",
        "lab/zero-v0 (here)",
        "halfcheetah/medium-replay-v0",
        "hopper/medium-expert-v0 (built on first use)",
        "walker2d/medium-v0",
    ):
        assert text in said
    assert (minari_obd.load_offline_data("lab/zero-v0").actions == 0).all()
    assert len(minari_obd.load_offline_data("obd-bench/hopper/medium-v0")) == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill", "obd-bench/hoper/medium-v0"], "did you mean 'obd-bench/hopper/medium-v0'"),
        (["distill", "x-v0", "--method", "sdv"], "did you mean 'sdw'"),
        (["run", "none.toml"], "There is no recipe 'none.toml'"),
        (["load", "nowhere"], "There is no distilled dataset 'nowhere'"),
        (["evaluate", "none.safetensors"], "There is no policy"),
        (
            ["distill", "x-v0", "--distillation.kernel-steps", "0"],
            "distillation.kernel_steps is 0; it must be above zero.",
        ),
        (["distill", "x-v0", "--size", "0"], "size is 0; it must be above zero."),
        (
            ["collect", "lab/x-v0", "--env", "Hopper-v5", "--policy", "random", "--license", "mitt"],
            "did you mean 'mit'",
        ),
        (["collect", "lab/x-v0"], "--env and --policy are needed"),
        (["collect", "lab/x-v0", "--env", "Hopper-v5", "--policy", "no_module:act"], "cannot be imported"),
        (["collect", "lab/x-v0", "--env", "Hopper-v5", "--policy", "hopper-1"], "did you mean"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err.split("follows.\n")[-1]  # after what `distill` says before it reads the data
    assert error.startswith("minari-obd: ")
    assert message in error
    assert not list(Path().rglob("*.*"))


def test_a_mistyped_folder_is_named(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs().save("out/made")
    with pytest.raises(SystemExit):
        main(["evaluate", "out/maed"])
    assert "There is no folder 'out/maed'; did you mean 'out/made'?" in capsys.readouterr().err


ROOM = """
import gymnasium as gym
gym.register("Room-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=5)
"""


def test_the_user_may_name_a_module_that_registers_environments(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_OBD_IMPORT", "")  # put back after the test
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_rooms.py").write_text(ROOM)
    replace(make_pairs(shape=(3, 1)), env_id="Room-v0").save("made")
    command = ["evaluate", "made", "--students", "1", "--episodes", "1"]
    with pytest.raises(SystemExit):
        main(command)
    assert "import the package that registers it (--import MODULE on the command line)" in capsys.readouterr().err
    main([*command, "--import", "my_rooms"])
    assert "1 students x 1 episodes in Room-v0" in capsys.readouterr().out
    assert os.environ["MINARI_OBD_IMPORT"] == "my_rooms"  # which child processes of `bench --jobs` import, too
    gym.registry.pop("Room-v0")
    del sys.modules["my_rooms"]
    main(command)
    gym.registry.pop("Room-v0")
    for wrong, message in ((["--import=no_such"], "'no_such' cannot be imported"), (["--import"], "needs the name")):
        with pytest.raises(SystemExit) as end:
            main([*command, *wrong])
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.strip() == minari_obd.__version__


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minari_obd.evaluation.evaluation.evaluate", stop)
    make_pairs().save("made")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "made"])
    assert end.value.code == 130
    assert "goes on from its checkpoint" in capsys.readouterr().err


def test_no_name_is_too_foreign_for_a_terminal_of_ascii(hopper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["distill", hopper, "--method", "random", "--size", "16", "--out", "é→∞"])
    for arguments in (["show", "é→∞"], ["load", "é→∞", "--recipe"], ["verify", "é→∞"], ["list"]):
        written = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream := io.TextIOWrapper(written, "ascii"))
            main(arguments)
            stream.flush()
        assert written.getvalue()
        assert "--recipe" in arguments or arguments == ["list"] or b"\\xe9\\u2192\\u221e" in written.getvalue()
