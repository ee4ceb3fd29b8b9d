"""What new users trip over: wrong kinds of files, folders in a file's place, odd names, Ctrl-C in a terminal."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_pairs
from hub_server import HubServer

import minari_obd
from minari_obd.cli import datasets
from minari_obd.cli.application import main
from minari_obd.errors import DataError, FormatError, NotFoundError, SettingError
from minari_obd.experiments.cell import CellResult, noted_keys
from minari_obd.experiments.grid import load_grid
from minari_obd.experiments.status import read_status, running
from minari_obd.settings.recipe import load_recipe
from minari_obd.sources.collecting import collect
from minari_obd.storage.hub import OtherKindError
from minari_obd.support.interrupts import deferred_interrupts

DEEP = "[" * 100_000


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says on standard error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_sigterm_after_ctrl_c_lets_the_step_end() -> None:
    """A terminal's Ctrl-C reaches the processes of a bench, which then also ends them by SIGTERM."""
    for first, second in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)):
        with deferred_interrupts() as is_interrupted:
            signal.raise_signal(first)
            signal.raise_signal(second)
            assert is_interrupted()
    with deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_endless_nesting_is_a_damaged_file(tmp_path: Path) -> None:
    for name, read in (
        ("cell.json", CellResult.read),
        ("grid.json", lambda path: noted_keys(path.parent)),
        ("status.json", lambda path: read_status(path.parent)),
    ):
        (tmp_path / name).write_text(DEEP)
        with pytest.raises(FormatError, match=name):
            read(tmp_path / name)
    (tmp_path / "deep.toml").write_text(f"a = {DEEP}")
    for load in (load_grid, load_recipe):
        with pytest.raises(FormatError, match="is not TOML"):
            load(tmp_path / "deep.toml")


def test_settings_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="There is no grid 'aaa"):
        load_grid(f"{'a' * 300}.toml")
    Path("mine.toml").touch()

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(FormatError, match=r"'mine\.toml' cannot be read \(Permission denied\)"):
        load_recipe("mine.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('datasets = ["a-v0"]\nmethods = ["dbc"]\nseeds = []', "'g.toml' is wrong: seeds is []; give"),
        ('datasets = ["a-v0"]\nmethods = ["dbc"]\nseeds = [-1]', "the grid's recipe: The seed is -1; it must"),
        (
            'datasets = ["a-v0"]\nmethods = ["dbc"]\n[recipe.evaluation]\nstudents = 0',
            "the grid's recipe: evaluation: evaluation.students is 0; it must be above zero.",
        ),
    ],
)
def test_a_grid_that_makes_no_sense_is_told_in_our_words(text: str, message: str) -> None:
    Path("g.toml").write_text(text)
    with pytest.raises(FormatError) as told:
        load_grid("g.toml")
    assert str(told.value).startswith(message)
    assert "Value error" not in str(told.value)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "made", "--out", "there"],
        ["compare", "made", "made", "--names", "a", "b", "--json", "there"],
        ["compare", "made", "made", "--names", "a", "b", "--figure", "there"],
        ["demo", "made", "--out", "there"],
    ],
)
def test_a_folder_in_the_place_of_a_file_is_found_before_any_episode(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    make_pairs(shape=(11, 3)).save("made")
    Path("there").mkdir()
    assert "'there' is a folder; name a file to write." in said(command, capsys)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("data.hdf5", "offline data, for `minari-obd distill`"),
        ("data.npz", "offline data, for `minari-obd distill`"),
        ("deep/mine.toml", "a recipe or a grid, for `minari-obd run` or `bench`"),
        ("deep/report.json", "a report, for `minari-obd compare`"),
        ("policy.onnx", "an exported policy, for other programs"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_name(name: str, what: str) -> None:
    Path("deep").mkdir()
    Path(name).write_bytes(b"whatever it holds")
    with pytest.raises(FormatError) as told:
        minari_obd.load_dataset(name)
    assert str(told.value) == f"'{name}' is a file, and a distilled dataset is a folder. By its name, it is {what}."
    with pytest.raises(FormatError) as told:
        minari_obd.load_policy(name)
    assert str(told.value) == f"'{name}' is not a policy of this package. By its name, it is {what}."


def test_a_policys_file_is_told_from_a_set(capsys: pytest.CaptureFixture[str]) -> None:
    minari_obd.clone(make_pairs()).save("p.safetensors")
    assert "By its name, it is a policy or a teacher" in said(["load", "p.safetensors"], capsys)
    Path("p.safetensors").rename("p.json")  # what a file holds counts more than its name
    assert minari_obd.load_policy("p.json").students == 1


def test_what_another_verb_loads_is_told() -> None:
    pairs = make_pairs()
    pairs.save("made")
    minari_obd.clone(pairs).save("p.safetensors")
    for load in (minari_obd.load_policy, minari_obd.load_teacher, minari_obd.load_offline_data):
        with pytest.raises(NotFoundError, match="On the shelf there are distilled datasets, for load_dataset"):
            load("shelf/hopper-medium-16")
    with pytest.raises(NotFoundError, match=r"'made' is there, but .* It holds a distilled dataset, for load_dataset"):
        minari_obd.load_offline_data("made")
    with pytest.raises(DataError, match=r"from DistilledDataset; .* clone them"):
        minari_obd.distill(pairs)
    with pytest.raises(FormatError, match=r"'p\.safetensors' is not a teacher .*: it is a policy"):
        minari_obd.load_teacher("p.safetensors")


def test_a_policy_replaces_policies_alone() -> None:
    policy = minari_obd.clone(make_pairs())
    Path("data.hdf5").write_text("years of work")
    with pytest.raises(
        SettingError, match=r"'data\.hdf5' is there already, and is no policy, so it is not overwritten"
    ):
        policy.save("data.hdf5")
    assert Path("data.hdf5").read_text() == "years of work"
    Path("empty").touch()  # as of tempfile
    for _ in range(2):
        policy.save("empty")


def test_offline_data_is_to_be_distilled() -> None:
    collect("lab/pendulum-v0", "Pendulum-v1", "random", steps=20, progress=False)
    with pytest.raises(FormatError, match=r"so it is offline data; distil it \(`minari-obd distill lab/pendulum-v0`\)"):
        minari_obd.load_dataset("lab/pendulum-v0")


def test_first_advises_what_can_be_done() -> None:
    for count in (0, -1, 8, 400):
        with pytest.raises(DataError, match=r"\); the set has 8 pairs, so give a number from 1 to 7\.$"):
            make_pairs().first(count)
    with pytest.raises(DataError, match=r"size=\[4, 8\], or --size 8 --distillation\.nested 4\.$"):
        make_pairs().first(4)


def test_names_are_not_letters() -> None:
    with pytest.raises(SettingError, match="names is the text 'ab'; give one name for each"):
        minari_obd.compare("one", "two", names="ab")


def test_what_is_loaded_already_is_no_name() -> None:
    pairs = make_pairs()
    for verb in ("load_dataset", "load_policy", "load_teacher", "load_recipe", "verify"):
        with pytest.raises(SettingError, match=rf"^{verb} takes a name or a path, .* is loaded already"):
            getattr(minari_obd, verb)(pairs)
        with pytest.raises(SettingError, match=r"takes a name or a path, and what was given is a NoneType\.$"):
            getattr(minari_obd, verb)(None)
    with pytest.raises(SettingError, match="from_minari takes str or MinariDataset, and what was given is a int"):
        minari_obd.DistilledDataset.from_minari(3)  # pyright: ignore[reportArgumentType]


def test_d3rlpy_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs().to_d3rlpy()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("name", ["it's", 'a "b" $c', "plain"])
def test_run_prints_a_line_of_python_that_runs(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minari_obd.distillation.pipeline.run_recipe", lambda *_, **__: type("", (), {"folder": name}))
    datasets.run(Path("r.toml"), minari_obd.Recipe("x"))
    line = next(line for line in capsys.readouterr().out.splitlines() if "python -c" in line)
    python, option, code = shlex.split(line)
    assert (python, option) == ("python", "-c")
    assert f"load_dataset({json.dumps(name)})" in code
    compile(code, "hint", "exec")


def test_a_branch_is_named_in_what_comes_next(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs().save("made")
    main(["push", "made", "lab/pairs", "--revision", "v1"])
    assert "Next: minari-obd verify lab/pairs --revision v1\n" in capsys.readouterr().out
    main(["push", "made", "lab/pairs"])
    assert "Next: minari-obd verify lab/pairs\n" in capsys.readouterr().out


def test_a_repository_says_what_else_it_holds(hub: HubServer) -> None:
    hub.commit("models/lab/taught", {"teacher.safetensors": b"x"})
    with pytest.raises(OtherKindError, match=r"it has no obd_policy\.json\. It holds a teacher, for load_teacher\."):
        minari_obd.load_policy("lab/taught")
    with pytest.raises(SettingError, match=r"choose another name\. It holds a teacher, for load_teacher\."):
        minari_obd.clone(make_pairs()).push_to_hub("lab/taught")


def test_a_recipe_and_a_grid_are_told_apart() -> None:
    Path("recipe.toml").write_text('source = "a-v0"\nmethod = "dbc"')
    Path("grid.toml").write_text('datasets = ["a-v0"]\nmethods = ["dbc"]')
    with pytest.raises(FormatError, match=r"'recipe\.toml' is a recipe, of one run; run it by `minari-obd run`"):
        load_grid("recipe.toml")
    with pytest.raises(FormatError, match=r"'grid\.toml' is a grid, of many runs; run it by `minari-obd bench`"):
        load_recipe("grid.toml")


def test_evaluate_replaces_reports_alone(capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(shape=(4, 1)).save("made")
    Path("notes.json").write_text('{"mine": 1}')
    command = ["evaluate", "made", "--env", "InvertedPendulum-v5", "--students", "1", "--episodes", "1", "--out"]
    assert "'notes.json' is there already, and no report" in said([*command, "notes.json"], capsys)
    assert Path("notes.json").read_text() == '{"mine": 1}'
    for _ in range(2):
        main([*command, "report.json"])
    minari_obd.clone(minari_obd.load_dataset("made"), students=1).save("policy.safetensors")
    told = said(["evaluate", "policy.safetensors", "--students", "2"], capsys)
    assert "'policy.safetensors' is no set of pairs to clone students from; leave out --students." in told


@pytest.mark.parametrize("token", ["", " \n"])
def test_an_empty_token_is_not_sent(token: str) -> None:
    with HubServer() as server, pytest.raises(SettingError, match="The token is empty; leave it out, or give one"):
        minari_obd.load_dataset("lab/set", token=token)
    assert not server.requests


@pytest.mark.parametrize("verb", ["evaluate", "verify"])
def test_a_mistyped_folder_is_told_from_a_repository(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make_pairs().save("out/made")
    assert "There is no folder 'out/mode'; did you mean 'out/made'" in said([verb, "out/mode"], capsys)


def test_an_ascii_terminal_shows_what_it_can() -> None:
    plain = {**os.environ, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"}
    call = "from minari_obd.cli.application import main; main(['show', 'shelf/hopper-medium-16'])"
    command = [sys.executable, "-c", call]
    shown = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert b"hopper/medium" in shown.stdout


def test_a_token_of_the_environment_with_accents_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_caf\u00e9")
    with HubServer() as server, pytest.raises(SettingError, match=r"^The token of HF_TOKEN or `hf auth login` has"):
        minari_obd.load_dataset("lab/set")
    assert not server.requests


def test_a_second_bench_in_a_folder_is_told(tmp_path: Path) -> None:
    """A lock is a process's, so the first bench is another process."""
    hold = (
        "import sys; from pathlib import Path; from minari_obd.experiments.status import running\n"
        "with running(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.warns(UserWarning, match="Another bench runs in"), running(tmp_path):
        pass
    first.communicate("")
    with running(tmp_path):
        pass
