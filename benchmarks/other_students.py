"""Other students of the shelf's sets: the papers' architectures and optimisers, and ensembles of ten.

    python benchmarks/other_students.py out/other_students.jsonl [--suffixes 256 av_pbc-256 sdw-256]
        [--protocols kernel adam paper ...] [--students 10] [--episodes 3] [--table]

A line of the file is one set's students by one protocol. What is there is not made again. At the end the file's tables
are printed, one for each kind of set; ``--table`` prints them and makes nothing. Scores are means over students and
episodes; intervals are over students, and of infinitely wide ones, which are all the same, over episodes.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from minari_obd.distilled.loading import load_dataset
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.scores.estimates import estimate_mean
from minari_obd.settings.protocols import ADAM_STUDENT, PROTOCOLS, EvaluationProtocol
from minari_obd.support.tables import markdown_table

STUDENTS = {
    "kernel": EvaluationProtocol(PROTOCOLS["kernel"]),
    "adam": EvaluationProtocol(ADAM_STUDENT),
    "adam, 400 steps": EvaluationProtocol(replace(ADAM_STUDENT, steps=400)),
    "adam, 1,024 units": EvaluationProtocol(ADAM_STUDENT.widened(1024)),
    "adam, 2 layers of 1,024": EvaluationProtocol(replace(ADAM_STUDENT.widened(1024), depth=2, steps=400)),
    "ten by adam": EvaluationProtocol(ADAM_STUDENT, students=3, ensemble=10),
    "adamw": EvaluationProtocol(PROTOCOLS["adamw"]),
    "paper": EvaluationProtocol(PROTOCOLS["paper"]),
    "ten of paper": EvaluationProtocol(PROTOCOLS["paper"], students=3, ensemble=10),
    "momentum": EvaluationProtocol(PROTOCOLS["momentum"]),
    "layers_2": EvaluationProtocol(PROTOCOLS["layers_2"]),
    "layers_3": EvaluationProtocol(PROTOCOLS["layers_3"]),
    "layers_5": EvaluationProtocol(PROTOCOLS["layers_5"]),
    "layers_6": EvaluationProtocol(PROTOCOLS["layers_6"]),
    "residual": EvaluationProtocol(PROTOCOLS["residual"]),
}
DATA = ["halfcheetah", "hopper", "walker2d"]
KINDS = ["medium", "medium-replay", "medium-expert"]


def judge(ref: str, name: str, students: int, episodes: int) -> dict[str, object]:
    """Evaluate a set's students of one kind; a line of the file."""
    protocol = STUDENTS[name]
    count = (protocol.students if protocol.ensemble > 1 else students), episodes
    report = evaluate(load_dataset(ref), protocol=replace(protocol, students=count[0], episodes=count[1]))
    scores = report.scores
    axis = 1 if len(scores) > 1 else 0
    return {"set": ref, "students": name, "episodes": int(scores.size), "scores": scores.mean(axis=axis).round(2).tolist()}


def table(lines: list[dict[str, object]], suffix: str) -> str:
    """One row for each kind of students, a column for each dataset, of the sets with one suffix."""
    found = {(line["set"], line["students"]): line["scores"] for line in lines}
    names = [f"{env}-{kind}" for env in DATA for kind in KINDS]
    rows = []
    for student in STUDENTS:
        scores = [found.get((f"shelf/{name}-{suffix}", student)) for name in names]
        told = [estimate_mean(np.array([each])) if each else None for each in scores]
        means = [each.mean for each in told if each]
        mean = f"{np.mean(means):.1f}" if len(means) == len(names) else ""
        rows.append([student, *(f"{e.mean:.1f} ({e.low:.1f} to {e.high:.1f})" if e else "" for e in told), mean])
    return markdown_table(["students", *names, "mean"], rows)


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suffixes", nargs="*", default=["256", "av_pbc-256", "sdw-256"])
    parser.add_argument("--protocols", nargs="*", default=list(STUDENTS), choices=STUDENTS)
    parser.add_argument("--students", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    there = {(line["set"], line["students"]) for line in lines}
    wanted = [] if given.table else [
        (f"shelf/{env}-{kind}-{suffix}", student)
        for suffix in given.suffixes
        for student in given.protocols
        for env in DATA
        for kind in KINDS
    ]
    for ref, student in wanted:
        if (ref, student) in there:
            continue
        lines.append(judge(ref, student, given.students, given.episodes))
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(ref, student, estimate_mean(np.array([lines[-1]["scores"]])), flush=True)
    for suffix in given.suffixes:
        print(f"\n{suffix}\n\n{table(lines, suffix)}")


if __name__ == "__main__":
    main()
