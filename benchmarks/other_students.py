"""Other students of the shelf's sets: networks cloned from the pairs alone, ensembles, and networks that imitate.

    python benchmarks/other_students.py out/other_students.jsonl [--suffixes 256 av_pbc-256 sdw-256]
        [--students kernel adam paper ...] [--count 5] [--episodes 4] [--table]

A line of the file is one set's students of one kind. What is there is not made again. At the end the file's tables are
printed, one for each kind of set; ``--table`` prints them and makes nothing. Scores are means over students and
episodes; intervals are over students, and of infinitely wide ones, which are all the same, over episodes.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_obd.cloning.cloning import clone
from minari_obd.cloning.imitation import IMITATION, imitate
from minari_obd.distilled.loading import load_dataset
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.scores.estimates import estimate_mean, estimate_mean_over_tasks
from minari_obd.settings.protocols import ADAM_STUDENT, PROTOCOLS, EvaluationProtocol, StudentProtocol
from minari_obd.support.tables import markdown_table


@dataclass(frozen=True)
class Kind:
    """One kind of students."""

    protocol: StudentProtocol
    ensemble: int = 1
    is_imitation: bool = False


STUDENTS = {
    "kernel": Kind(PROTOCOLS["kernel"]),
    "imitation": Kind(IMITATION, is_imitation=True),
    "imitation, 2 layers of 64": Kind(replace(IMITATION, depth=2, width=64), is_imitation=True),
    "imitation, residual": Kind(replace(IMITATION, network="residual"), is_imitation=True),
    "adam": Kind(ADAM_STUDENT),
    "adam, 400 steps": Kind(replace(ADAM_STUDENT, steps=400)),
    "adam, 1,024 units": Kind(ADAM_STUDENT.widened(1024)),
    "ten by adam": Kind(ADAM_STUDENT, ensemble=10),
    "paper": Kind(PROTOCOLS["paper"]),
    "ten of paper": Kind(PROTOCOLS["paper"], ensemble=10),
    **{name: Kind(PROTOCOLS[name]) for name in ("layers_2", "layers_5", "layers_6", "residual", "momentum", "adamw")},
}

DATA = ["halfcheetah", "hopper", "walker2d"]
KINDS = ["medium", "medium-replay", "medium-expert"]


def judge(ref: str, name: str, count: int, episodes: int) -> dict[str, Any]:
    """Evaluate a set's students of one kind; a line of the file."""
    kind, pairs = STUDENTS[name], load_dataset(ref)
    if kind.is_imitation:
        networks = imitate(clone(pairs, protocol="kernel"), protocol=kind.protocol, students=count)
        report = evaluate(networks, episodes=episodes)
    else:
        report = evaluate(pairs, protocol=EvaluationProtocol(kind.protocol, count, episodes, kind.ensemble))
    scores = report.scores
    axis = 1 if len(scores) > 1 else 0
    return {"set": ref, "students": name, "episodes": scores.size, "scores": scores.mean(axis=axis).round(2).tolist()}


def table(lines: list[dict[str, Any]], suffix: str) -> str:
    """One row for each kind of students, a column for each dataset, of the sets with one suffix."""
    found = {(line["set"], line["students"]): line["scores"] for line in lines}
    names = [f"{env}-{kind}" for env in DATA for kind in KINDS]
    rows = []
    for student in STUDENTS:
        scores = [found.get((f"shelf/{name}-{suffix}", student)) for name in names]
        told = [estimate_mean(np.array([each])) if each else None for each in scores]
        told.append(estimate_mean_over_tasks([np.array(each) for each in scores]) if all(scores) else None)
        rows.append([student, *(f"{e.mean:.1f} ({e.low:.1f} to {e.high:.1f})" if e else "" for e in told)])
    return markdown_table(["students", *names, "mean"], rows)


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suffixes", nargs="*", default=["256", "av_pbc-256", "sdw-256"])
    parser.add_argument("--students", nargs="*", default=list(STUDENTS), choices=STUDENTS)
    parser.add_argument("--count", type=int, default=5, help="students of a kind")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    there = {(line["set"], line["students"]) for line in lines}
    wanted = [
        (f"shelf/{env}-{kind}-{suffix}", student)
        for suffix in given.suffixes
        for student in given.students
        for env in DATA
        for kind in KINDS
    ]
    for ref, student in wanted:
        if given.table or (ref, student) in there:
            continue
        lines.append(judge(ref, student, given.count, given.episodes))
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(ref, student, estimate_mean(np.array([lines[-1]["scores"]])), flush=True)
    for suffix in given.suffixes:
        print(f"\n{suffix}\n\n{table(lines, suffix)}")


if __name__ == "__main__":
    main()
