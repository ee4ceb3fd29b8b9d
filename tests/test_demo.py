"""The demo page: bodies where MuJoCo has them, in one file that loads nothing and trusts no name."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_pairs, make_teacher
from finetuning_lab import SWIMMER, registered_environments

from minari_obd.cli.application import main
from minari_obd.environments.bodies import record_bodies
from minari_obd.environments.rollouts import visit
from minari_obd.errors import SettingError
from minari_obd.experiments import demo
from minari_obd.experiments.demo import write_demo


def push(observations: np.ndarray) -> np.ndarray:
    return np.full((len(observations), 1), 0.5, np.float32)


def packed(page: str) -> list[dict[str, Any]]:
    """The episodes of a page, as its script reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    actors = json.loads(found[1])["actors"]
    for actor in actors:
        for name in ("times", "camera", "returns"):
            actor[name] = np.frombuffer(base64.b64decode(actor[name]), "<f4")
        numbers = np.frombuffer(base64.b64decode(actor["segments"]), "<i2")
        actor["segments"] = numbers.reshape(len(actor["times"]), actor["parts"], 2, 2) / 1000
    return actors


def test_bodies_are_rigid_and_where_mujoco_has_them() -> None:
    episode = record_bodies("InvertedPendulum-v5", 0, push)
    seen = visit("InvertedPendulum-v5", [0], push)
    assert len(episode.segments) == len(seen.observations) + 1
    assert episode.returns[-1] == seen.returns[0]
    assert episode.terminated
    assert episode.seconds == pytest.approx(0.04)
    assert not episode.is_from_above
    assert not episode.has_ground
    cart, pole = episode.segments[:-1, 0], episode.segments[:-1, 1]
    lengths = np.linalg.norm(pole[:, 1] - pole[:, 0], axis=-1)
    np.testing.assert_allclose(lengths, 0.6, atol=1e-3)  # as the model says, and the pole never leaves the plane
    np.testing.assert_allclose(cart.mean(axis=1)[:, 0], seen.observations[:, 0], atol=1e-4)  # the cart's position
    along = np.abs(pole[:, 0] - pole[:, 1])  # which end is up depends on MuJoCo's version
    angles = np.arctan2(along[:, 0], along[:, 1])
    np.testing.assert_allclose(angles, np.abs(seen.observations[:, 1]), atol=1e-2)


def test_a_page_plays_student_and_teacher_from_the_same_start() -> None:
    with registered_environments():
        pairs = make_pairs(env_id=SWIMMER, shape=(8, 2))
        page = write_demo(pairs, "demo.html", teacher=make_teacher(states=8)).read_text()
        again = write_demo(pairs, "again.html", teacher=make_teacher(states=8)).read_text()
        alone = write_demo(pairs, "alone.html", seed=1).read_text()
    assert page == again
    student, teacher = packed(page)
    assert student["name"] == "Student"
    assert teacher["name"] == "Teacher"
    assert not student["ground"]  # a swimmer is seen from above
    assert student["times"][-1] == pytest.approx(80 * 0.04)
    first = [actor["segments"][0] + [actor["camera"][0], 0] for actor in (student, teacher)]
    np.testing.assert_allclose(*first, atol=2e-3)
    assert not np.allclose(student["returns"], teacher["returns"])
    assert np.abs(student["segments"]).max() < 3
    assert len(packed(alone)) == 1
    assert "Its teacher is not on this machine." in alone
    for total in (student["returns"][-1], teacher["returns"][-1]):
        assert f"{total:,.0f}" in page  # the numbers are there without the animation
    assert not re.findall(r"(?:src|href)=|https?:|@import|url\(|@@\w+@@", page)
    assert page.count('role="img"') == 3
    assert "prefers-color-scheme: dark" in page
    assert "prefers-reduced-motion" in page


def test_names_cannot_break_out_of_the_page() -> None:
    evil = "</script><img src=x onerror=alert(1)>@@data@@"
    with registered_environments():
        pairs = make_pairs(env_id=SWIMMER, shape=(8, 2))
        pairs = replace(pairs, provenance=replace(pairs.provenance, source=evil, package_version=evil))
        details = {"algorithm": evil}
        page = write_demo(pairs, "demo.html", teacher=make_teacher(states=8, details=details)).read_text()
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert len(packed(page)) == 2


def test_what_cannot_be_played_is_found_before_a_student_is_cloned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "clone", lambda *_, **__: pytest.fail("cloning had begun"))
    with pytest.raises(SettingError, match="'Pendulum-v1' is not simulated by MuJoCo"):
        write_demo(make_pairs(env_id="Pendulum-v1", shape=(3, 1)))
    with pytest.raises(SettingError, match="The teacher is for 3 observations and 2 actions"):
        write_demo(make_pairs(env_id="Swimmer-v5", shape=(8, 2)), teacher=make_teacher())


def test_what_cannot_be_played_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match=r"'CartPole-v1' is not simulated by MuJoCo"):
        record_bodies("CartPole-v1", 0, lambda observations: np.zeros(len(observations), int))
    with pytest.raises(SettingError, match="It is not known what environment"):
        write_demo(make_pairs(env_id=None))
    with pytest.raises(SettingError, match="is for 3 observations and 2 actions"):
        write_demo(make_pairs())
    Path("file").write_text("")
    with pytest.raises(SettingError, match="cannot be written"):
        write_demo(make_pairs(env_id="Swimmer-v5", shape=(8, 2)), "file/demo.html")
    with pytest.raises(SystemExit):
        main(["demo", "no-such-folder/x", "--out", "demo.html"])
    assert "minari-obd: " in capsys.readouterr().err
