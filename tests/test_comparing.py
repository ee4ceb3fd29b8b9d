"""Comparisons: differences and probabilities in closed form, what is refused, and the files that are written."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from conftest import make_pairs, make_teacher

import minari_obd
from minari_obd.cli.application import main
from minari_obd.environments.making import make_environment
from minari_obd.errors import DataError, MinariObdError, NotFoundError, SettingError
from minari_obd.evaluation import comparing
from minari_obd.scores.comparing import ComparisonReport
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport

RNG = np.random.default_rng(0)


def report(middle: float, *, students: int = 8, episodes: int = 4, **changes) -> EvaluationReport:
    given = {"env_id": "Hopper-v5", "seed": 0, "reference": ReferenceScores(0.0, 100.0, "x")} | changes
    return EvaluationReport(RNG.normal(middle, 2.0, (students, episodes)), **given)


def test_a_line_says_mean_difference_and_the_share_of_wins() -> None:
    first, second = report(50.0), report(52.0, students=6)
    found = minari_obd.compare(first, second, names=["a", "b"])
    base, line = found.lines
    assert (base.name, base.difference, base.improvement) == ("a", None, None)
    assert base.mean == first.score
    x, y = second.scores.mean(axis=1), first.scores.mean(axis=1)
    assert line.difference is not None
    assert line.improvement is not None
    np.testing.assert_allclose(line.difference.mean, x.mean() - y.mean())
    assert line.difference.low < line.difference.mean < line.difference.high
    # Normal theory: the standard error of the difference of two independent means, without the correction of n - 1.
    width = 1.96 * np.sqrt(x.var() / len(x) + y.var() / len(y))
    np.testing.assert_allclose(line.difference.high - line.difference.low, 2 * width, rtol=0.1)
    # rliable's definition: the Mann-Whitney statistic divided by the product of the counts.
    statistic, _ = scipy.stats.mannwhitneyu(x, y, alternative="greater")
    np.testing.assert_allclose(line.improvement.mean, statistic / (len(x) * len(y)))
    assert line.improvement == second.probability_of_improvement(first)
    assert {name: values.shape for name, values in found.scores.items()} == {"a": (8, 1), "b": (6, 1)}
    np.testing.assert_array_equal(found.scores["b"][:, 0], x)


def test_the_same_report_twice_is_no_difference_and_a_coins_toss() -> None:
    one = report(50.0)
    line = ComparisonReport({"a": one, "b": one}).lines[1]
    assert line.difference is not None
    assert line.improvement is not None
    assert line.difference.mean == 0.0
    assert line.improvement.mean == 0.5


def test_where_all_are_alone_episodes_are_the_runs() -> None:
    found = ComparisonReport({"a": report(50.0, students=1), "b": report(90.0, students=1, episodes=6)})
    assert found.scores["b"].shape == (6, 1)
    improvement = found.lines[1].improvement
    assert improvement is not None
    assert improvement.mean == 1.0
    assert "6 x 1 episodes" in found.to_markdown()
    mixed = ComparisonReport({"a": report(50.0), "b": report(90.0, students=1)})
    assert mixed.scores["b"].shape == (1, 1)


def test_without_reference_scores_returns_are_compared_and_one_scale_serves_all() -> None:
    bare = report(50.0, reference=None)
    assert ComparisonReport({"a": bare, "b": bare}).unit == "return"
    scaled = ComparisonReport({"a": bare, "b": report(50.0, reference=ReferenceScores(0.0, 50.0, "x"))})
    assert scaled.unit == "normalised score"
    np.testing.assert_allclose(scaled.scores["a"][:, 0], 2 * bare.returns.mean(axis=1))
    with pytest.raises(DataError, match="the reference scores differ: 'a' 0 to 100, 'b' 0 to 50"):
        ComparisonReport({"a": report(1.0), "b": report(1.0, reference=ReferenceScores(0.0, 50.0, "x"))})


def test_what_would_fail_after_an_evaluation_is_found_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "evaluate", lambda *_, **__: pytest.fail("an evaluation had begun"))
    fitting, other = make_pairs(shape=(11, 3)), make_pairs()
    with pytest.raises(SettingError, match="'pairs 2': The set of pairs is for 3 observations and 2 actions"):
        minari_obd.compare(fitting, other)
    with pytest.raises(SettingError, match="'teacher 2': The teacher is for 3 observations and 2 actions"):
        minari_obd.compare(fitting, make_teacher())
    with pytest.raises(SettingError, match="'function 2': The function returned an action of shape"):
        minari_obd.compare(fitting, lambda _: np.zeros(2))
    with pytest.raises(DataError, match=r"the reference scores differ: 'report 1' 0 to 50, 'pairs 2' 0 to 100"):
        minari_obd.compare(report(1.0, reference=ReferenceScores(0.0, 50.0, "x")), fitting)


def test_what_cannot_be_compared_is_refused_before_anything_is_evaluated() -> None:
    one, pairs = report(1.0), make_pairs()
    other = replace(pairs, provenance=replace(pairs.provenance, source="lab/other-v0"))
    with pytest.raises(SettingError, match=r"made from different datasets.*'pairs 1' from lab/source-v0"):
        minari_obd.compare(pairs, other)
    with pytest.raises(SettingError, match="made from different datasets"):
        minari_obd.compare(minari_obd.clone(other), make_teacher(), env="Hopper-v5")
    with pytest.raises(SettingError, match="Only what acts in one environment"):
        minari_obd.compare(one, report(1.0, env_id="Ant-v5"))
    with pytest.raises(SettingError, match="'report 1' in Hopper-v5, '--env' in Ant-v5"):
        minari_obd.compare(one, make_pairs(), env="Ant-v5")
    with pytest.raises(DataError, match="different environments"):
        ComparisonReport({"a": one, "b": report(1.0, env_id="Ant-v5")})
    for few in ((), (one,)):
        with pytest.raises(SettingError, match="takes at least two"):
            minari_obd.compare(*few)
    with pytest.raises(SettingError, match="name of its own"):
        minari_obd.compare(one, one, names=["a", "a"])
    with pytest.raises(SettingError, match="environment of these subjects is not known"):
        minari_obd.compare(make_pairs(env_id=None), make_pairs(1, env_id=None))
    with pytest.raises(NotFoundError, match=r"no report 'none\.json'"):
        minari_obd.compare("none.json", one)


def test_sets_policies_teachers_and_reports_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = make_pairs(shape=(11, 3))
    pairs.save("pairs")
    minari_obd.clone(pairs, students=2).save_pretrained("policy")
    minari_obd.clone(pairs).save("policy.safetensors")
    main(["evaluate", "pairs", "--students", "2", "--episodes", "2", "--out", "report.json"])
    main(
        [
            "compare",
            "report.json",
            "pairs",
            "policy",
            "policy.safetensors",
            "--students",
            "2",
            "--episodes",
            "2",
            "--names",
            "saved",
            "pairs",
            "folder",
            "file",
            "--json",
            "c.json",
            "--figure",
            "c.png",
        ]
    )
    said = capsys.readouterr().out
    assert "| Hopper-v5, normalised score | mean | difference to saved | P(better than saved) | runs |" in said
    found = json.loads(Path("c.json").read_text())
    scores = {name: np.array(values) for name, values in found["scores"].items()}
    assert {name: each.shape for name, each in scores.items()} == {
        "saved": (2, 1),
        "pairs": (2, 1),
        "folder": (2, 1),
        "file": (1, 1),
    }
    np.testing.assert_array_equal(scores["saved"], scores["pairs"])  # the same students from the same starts
    assert Path("c.png").read_bytes()[:4] == b"\x89PNG"
    for wrong in (["--figure", "c.pdf"], ["--names", "one"]):
        with pytest.raises(SystemExit):
            main(["compare", "report.json", "report.json", *wrong])
    assert "does not end in .png" in capsys.readouterr().err


def test_evaluation_films_the_first_episode() -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    policy = minari_obd.clone(make_pairs(shape=(11, 3)))
    for name in ("episode.gif", "episode.mp4"):
        filmed = minari_obd.evaluate(policy, episodes=1, video=name)
        raw = [ffmpeg, "-nostdin", "-i", name, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        pictures = subprocess.run(raw, capture_output=True, stdin=subprocess.DEVNULL, check=True).stdout
        frames = np.frombuffer(pictures, np.uint8).reshape(-1, 480, 480, 3)
        steps = filmed.environment_steps
        assert abs(len(frames) - steps / (5 if name.endswith("gif") else 3)) <= 2
        assert np.ptp(frames) > 50  # something is seen
    assert sorted(path.name for path in Path().glob("*episode*")) == ["episode.gif", "episode.mp4"]
    with pytest.raises(SettingError, match=r"neither \.mp4 nor \.gif"):
        minari_obd.evaluate(policy, video="episode.avi")


# What Gymnasium's viewer has not made, it cannot free either, and it says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_nothing_can_be_drawn_the_error_says_what_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = minari_obd.clone(make_pairs(shape=(11, 3)))
    make_environment("Hopper-v5").close()  # imports MuJoCo, which would refuse the next line's value
    monkeypatch.setenv("MUJOCO_GL", "none")  # a renderer that does not exist
    with pytest.raises(MinariObdError, match=r"'Hopper-v5' cannot be drawn on this machine.*MUJOCO_GL=egl"):
        minari_obd.evaluate(policy, video="other.gif")
    assert not Path("other.gif").exists()


def test_a_report_is_kept_with_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(shape=(11, 3)).save("pairs")
    main(["clone", "pairs", "--out", "policy", "--students", "2"])
    main(["evaluate", "policy", "--episodes", "2", "--save"])
    loaded = minari_obd.load_policy("policy")
    assert loaded.evaluation is not None
    assert loaded.evaluation.returns.shape == (2, 2)
    assert "## Results" in Path("policy/README.md").read_text()
    main(["export", "policy", "policy.safetensors"])
    assert "minari-obd push policy.safetensors organisation/name" in capsys.readouterr().out
    for arguments, said in {
        "clone pairs --out policy": "There is a folder 'policy' already",
        "export policy policy.bin": "is none of .safetensors, .onnx and the name of a folder",
        "export pairs here": "is not a policy",
    }.items():
        with pytest.raises(SystemExit):
            main(arguments.split())
        assert said in capsys.readouterr().err
