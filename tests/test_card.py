"""The card: what the Hub reads of it, what a person does, and what a hostile set cannot make of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from conftest import make_discrete, make_full, make_pairs

import minari_obd
from minari_obd.cli.listing import print_card
from minari_obd.distilled.card import dataset_card
from minari_obd.distilled.coverage import draw_coverage
from minari_obd.scores.estimates import Estimate
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import Comparison
from minari_obd.settings.protocols import KERNEL_STUDENT, StudentProtocol


def header_and_body(card: str) -> tuple[dict, str]:
    yaml = pytest.importorskip("yaml")
    _, header, body = card.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_header_is_what_the_hub_wants() -> None:
    values, _ = header_and_body(dataset_card(make_full(), "lab/obd-x"))
    assert values["license"] == "cc-by-4.0"
    assert values["pretty_name"] == "obd-x"
    assert values["task_categories"] == ["reinforcement-learning"]
    assert values["size_categories"] == ["n<1K"]
    wanted = {"offline-rl", "dataset-distillation", "minari", "minari-obd", "Hopper-v5", "sdw"}
    assert wanted <= set(values["tags"])
    assert values["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert header_and_body(dataset_card(make_pairs(size=1_500), "lab/x"))[0]["size_categories"] == ["1K<n<10K"]
    assert header_and_body(dataset_card(make_pairs(), "lab/x"))[0]["license"] == "unknown"


def test_huggingface_hub_reads_the_header() -> None:
    from huggingface_hub import DatasetCard

    folder = make_full().save("obd-x")
    data = DatasetCard.load(folder / "README.md").data
    assert data.to_dict()["license"] == "cc-by-4.0"
    assert data.to_dict()["task_categories"] == ["reinforcement-learning"]


def test_the_body_has_results_ways_to_load_a_picture_limits_and_papers() -> None:
    report = minari_obd.EvaluationReport(np.full((2, 3), 41.23), "E-v0", 0, ReferenceScores(0.0, 100.0, "made up"))
    other = Comparison("random pairs", 8, 2, 3, Estimate(7.0, 6.5, 7.5), Estimate(70.0, 65.0, 75.0))
    folder = make_pairs().with_evaluation(replace(report, comparisons=(other,))).save("obd-x")
    body = header_and_body((folder / "README.md").read_text())[1]
    assert "| **8 sdw pairs** | 8 | 41.2 | 41.2 - 41.2 | 2 x 3 |" in body
    assert "| random pairs | 8 | 7.0 | 6.5 - 7.5 | 2 x 3 |" in body
    for text in (
        'minari_obd.load_dataset("ORG/obd-x")',
        'datasets.load_dataset("ORG/obd-x", split="train")',
        'minari.load_dataset("obd-x/pairs-v0", download=True)',
        "](coverage.png)",
        "## Limits",
        "2410.22728",
        "2512.06692",
    ):
        assert text in body
    loaded = minari_obd.load_dataset(folder).evaluation
    assert loaded is not None
    assert loaded.comparisons == (other,)
    line = json.loads((folder / "evaluation.json").read_text())["comparisons"][0]
    assert list(line) == ["name", "pairs", "students", "episodes", "score", "return"]
    assert line["return"] == {"mean": 70.0, "low": 65.0, "high": 75.0}


def test_a_report_of_endless_returns_is_not_resampled() -> None:
    """A file from elsewhere may hold a million students, whose interval would fill the memory."""
    returns = np.random.default_rng(0).normal(size=(1_000_000, 1))
    pairs = make_pairs().with_evaluation(minari_obd.EvaluationReport(returns, "Hopper-v5", 0))
    assert "1,000,000 returns, too many to summarise here" in dataset_card(pairs, "lab/x")


def test_a_name_that_minari_cannot_reach_is_not_advertised() -> None:
    assert "minari.load_dataset" not in dataset_card(make_pairs(), "lab/obd.x")


@pytest.mark.parametrize("full", [True, False])
def test_the_picture_is_a_picture_and_always_the_same(full: bool) -> None:
    from matplotlib.image import imread

    pairs = make_full() if full else make_pairs()
    Path("picture.png").write_bytes(draw_coverage(pairs))
    picture = imread("picture.png")
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.05
    assert draw_coverage(pairs) == Path("picture.png").read_bytes()


def test_the_users_own_style_changes_nothing() -> None:
    import matplotlib as mpl

    before = draw_coverage(make_pairs())
    with mpl.rc_context({"text.usetex": True, "font.size": 20}):
        assert draw_coverage(make_pairs()) == before


def test_a_scale_near_zero_does_not_break_the_picture() -> None:
    pairs = make_full()
    tiny = replace(pairs, normaliser=type(pairs.normaliser)(np.zeros(3), np.full(3, 1e-40)))
    assert draw_coverage(tiny)[:4] == b"\x89PNG"


def test_a_picture_of_very_many_dimensions_stays_small() -> None:
    assert len(draw_coverage(make_pairs(shape=(400, 60)))) < 300_000


def test_a_set_cannot_steer_the_terminal_or_break_a_table() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J"
    provenance = replace(make_pairs().provenance, source=hostile, targets={"a | b\n\n# c": "x | y\nz"})
    folder = replace(make_pairs(), provenance=provenance).save("pairs")
    pairs = minari_obd.load_dataset(folder)
    card = (folder / "README.md").read_text()
    assert "\x1b" not in repr(pairs) + card
    assert "| a / b # c | x / y z |" in card


def test_the_terminal_shows_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = minari_obd.load_dataset(make_full().save("obd-x"))
    print_card(pairs)
    said = capsys.readouterr().out
    make_pairs().save("odd@v1")
    print_card(minari_obd.load_dataset("odd@v1"))
    for text in ("obd-x", "8 (observation, action) pairs", "Loaded from", "reward"):
        assert text in said


def test_the_card_says_what_the_network_is_and_which_numbers_matter() -> None:
    pairs = make_pairs()
    nested = replace(pairs.provenance, targets={"value_calibration": {"mean_value": 3.14159265358979}})
    card = dataset_card(replace(pairs, provenance=nested), "org/name")
    assert "| value calibration: mean value | 3.142 |" in card
    assert "1 hidden layers of 8 (ReLU, tanh at the output), trained on the mean squared error" in card
    assert "all pairs at once" in card
    residual = replace(pairs, protocol=replace(pairs.protocol, network="residual"))
    assert "skip connection" in dataset_card(residual, "org/name")
    assert "The same policy in plain torch" not in dataset_card(residual, "org/name")
    other = replace(pairs, protocol=replace(pairs.protocol, network="{0.__class__}"))
    assert "the network `{0.__class__}` with depth 1 and width 8" in dataset_card(other, "org/name")


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("is_discrete", [False, True])
def test_the_plain_torch_code_clones_what_the_package_clones(
    optimiser: Literal["sgd", "adam"], is_discrete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    import torch

    protocol = StudentProtocol(depth=2, width=32, steps=100, optimiser=optimiser, learning_rate=0.05)
    pairs = replace(make_pairs(size=32), protocol=protocol)
    if is_discrete:
        if optimiser == "sgd":  # a softmax has small gradients
            protocol = replace(protocol, learning_rate=3.0, steps=1_000)
        pairs = replace(make_discrete(size=32), protocol=protocol.suited(is_discrete=True), transitions=None)
    folder = pairs.save("name")
    code = (
        (folder / "README.md")
        .read_text()
        .split("in plain torch, cloned from these pairs:\n\n```python\n")[1]
        .split("```")[0]
    )
    columns = {"observation": torch.tensor(pairs.observations), "action": torch.tensor(pairs.actions)}
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, repo_type: str(folder / name))
    torch.manual_seed(0)
    scope: dict[str, Any] = {"ds": type("Rows", (), {"__getitem__": lambda *_: columns})()}
    exec(code, scope)  # the card's own code
    ours = minari_obd.clone(pairs, students=5)
    if is_discrete:
        assert "| `action` | float32[3] | probabilities of the actions 5 to 7 |" in (folder / "README.md").read_text()
        assert np.mean(scope["policy"](columns["observation"]).numpy() == ours(pairs.observations)) > 0.8
        return
    errors = [float(np.square(a - pairs.actions).mean()) for a in ours.act_each(pairs.observations)]
    theirs = float(np.square(scope["policy"](columns["observation"]).detach().numpy() - pairs.actions).mean())
    assert min(errors) / 2 < theirs < 2 * max(errors)


@pytest.mark.parametrize("is_discrete", [False, True])
def test_the_numpy_code_solves_what_the_package_solves(is_discrete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    pairs = make_discrete(size=32) if is_discrete else make_pairs(size=32)
    pairs = replace(pairs, protocol=KERNEL_STUDENT.suited(is_discrete=is_discrete), transitions=None)
    folder = pairs.save("name")
    card = (folder / "README.md").read_text()
    assert "an infinitely wide multi-layer perceptron with 2 hidden layers" in card
    code = card.split("The same policy in NumPy, from these pairs:\n\n```python\n")[1].split("```")[0]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, repo_type: str(folder / name))
    columns = {"observation": pairs.observations.tolist(), "action": pairs.actions.tolist()}
    scope: dict[str, Any] = {"ds": datasets.Dataset.from_dict(columns)}
    exec(code, scope)  # the card's own code
    said, ours = scope["policy"](pairs.observations), minari_obd.clone(pairs)(pairs.observations)
    np.testing.assert_allclose(said, ours, atol=1e-3)
