"""Random streams are apart, and their numbers never change."""

import ast
from itertools import pairwise
from pathlib import Path

import numpy as np

import minari_obd
from minari_obd.support.streams import Stream

NUMBERS = {
    "SPLIT": 0,
    "INITIAL_PAIRS": 1,
    "BATCHES": 2,
    "STUDENTS": 3,
    "TEACHER": 4,
    "CLONES": 5,
    "CLONING": 6,
    "EPISODES": 7,
    "DENSITY": 8,
    "REAL_PAIRS": 9,
    "PROTOCOLS": 10,
    "WINDOWS": 11,
    "JUDGING_PROTOCOLS": 12,
    "JUDGING_STUDENTS": 13,
    "EXPLORATION": 14,
    "FINETUNING": 15,
    "TRAINING_EPISODES": 16,
    "LEARNER": 17,
    "STAGES": 18,
    "COVERAGE": 30,
    "NEARNESS": 31,
    "MEMBERSHIP": 32,
}


def test_streams_keep_their_numbers() -> None:
    found = {name: int(stream) for name, stream in Stream.__members__.items()}  # two names of one number are two here
    assert {name: found[name] for name in NUMBERS} == NUMBERS
    assert len(set(found.values())) == len(found)


def test_a_stream_draws_what_its_bare_number_drew() -> None:
    for stream in Stream:
        number = int(stream)
        assert stream.generator(5).random() == np.random.default_rng([5, number]).random()
        assert stream.generator(5, 1, 2).random() == np.random.default_rng([5, number, 1, 2]).random()
        expected = np.random.SeedSequence([5, number, 3]).generate_state(4)
        assert stream.seeds(4, 5, 3).tolist() == expected.tolist()
        assert stream.seed(5, 3) == expected[0]


def test_streams_are_apart() -> None:
    first = {stream.seed(seed, *rest) for stream in Stream for seed in (0, 1) for rest in ((), (1,), (2,))}
    assert len(first) == len(Stream) * 2 * 3


def test_no_stream_is_a_bare_number() -> None:
    for path in Path(minari_obd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            if called not in ("default_rng", "SeedSequence", "student_generators", "draw"):
                continue
            constants = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            assert not any(isinstance(value, int) for value in constants), f"{path.name}: {ast.unparse(node)}"


def test_every_stream_says_what_it_is_for() -> None:
    (body,) = [
        node.body
        for node in ast.parse((Path(minari_obd.__file__).parent / "support" / "streams.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign):
            assert isinstance(after, ast.Expr), ast.unparse(node)
