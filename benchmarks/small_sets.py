"""Students of small distilled sets beside the whole data and the teacher, one teacher for all seeds.

    python benchmarks/small_sets.py out/cartpole.jsonl obd-bench/cartpole/medium-replay-v0 --sizes 16 64
        [--methods pbc opw] [--seeds 0 1 2 3 4] [--teacher discrete_cql] [--updates 20000]
        [--settings '{"distillation": {"steps": 60}}'] [--protocols own adam] [--whole 5] [--table]

A line of the file is one evaluation: a set's students by one protocol, students of the whole data, or the teacher. What
is there is not made again. At the end the file's table is printed; ``--table`` prints it and makes nothing. Scores are
shares of the way from random actions to the expert; the interval is over seeds (of the teacher: over episodes). Where
there are no reference scores, rates of success are compared with the teacher's.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_obd.cloning.cloning import clone
from minari_obd.distillation.distillation import distill
from minari_obd.distillation.judging import judge_teacher
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.scores.estimates import estimate_mean
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.recipe import Recipe, parse_recipe
from minari_obd.sources.loading import load_offline_data
from minari_obd.support.tables import markdown_table
from minari_obd.teachers.training import train_teacher

KEY: tuple[str, ...] = ("source", "method", "size", "seed", "protocol", "settings")
HEAD = ["source", "students of", "by", "seeds", "return", "score", "success, %", "of the teacher's", "seconds"]


def told(report: EvaluationReport) -> dict[str, Any]:
    """What a line holds of an evaluation, by student; by episode, if there is but one."""
    axis = 1 if len(report.returns) > 1 else 0
    found = {"students": np.round(report.returns.mean(axis=axis), 3).tolist()}
    if report.reference is not None:
        found["scores"] = np.round(report.scores.mean(axis=axis), 3).tolist()
    if report.successes is not None:
        found["successes"] = (100.0 * report.successes).mean(axis=axis).round(2).tolist()
    return found


def results(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make every line that is not there yet."""
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    there = {json.dumps([line[name] for name in KEY]) for line in lines}

    def missing(method: str, size: int | None, seed: int, protocol: str) -> dict[str, Any] | None:
        identity = dict(zip(KEY, (given.source, method, size, seed, protocol, given.settings), strict=True))
        return None if json.dumps(list(identity.values())) in there else identity

    base: Recipe = parse_recipe({"source": given.source, **given.settings}, "--settings")
    data = load_offline_data(given.source, progress=False)
    begun = time.perf_counter()
    teacher = train_teacher(data, given.teacher, steps=given.updates, progress=False)
    trained = round(time.perf_counter() - begun, 1)
    if (line := missing("teacher", None, 0, given.teacher)) is not None:
        yield {**line, "seconds": trained, "details": teacher.details, **told(judge_teacher(teacher, data, base))}
    for seed in given.seeds:
        for size in given.sizes:
            for method in given.methods:
                wanted = [found for each in given.protocols if (found := missing(method, size, seed, each))]
                if not wanted:
                    continue
                begun = time.perf_counter()
                pairs = distill(data, method, size=size, seed=seed, teacher=teacher, recipe=base, progress=False)
                made = round(time.perf_counter() - begun, 1)
                provenance = pairs.provenance
                for line in wanted:
                    protocol = None if line["protocol"] == "own" else line["protocol"]
                    report = evaluate(pairs, protocol=protocol, seed=seed)
                    kept = {"seconds": made, "loss": provenance.offline_loss, "step": provenance.outer_step}
                    yield {**line, **kept, **told(report)}
        if seed < given.whole and (line := missing("whole_data", None, seed, "whole_data")) is not None:
            begun = time.perf_counter()
            policy = clone(data, students=10, protocol="whole_data", seed=seed)
            seconds = round(time.perf_counter() - begun, 1)
            yield {**line, "seconds": seconds, **told(evaluate(policy, episodes=10, seed=seed))}


def table(lines: list[dict[str, Any]]) -> str:
    """One row for each source, method, size, protocol and settings, over its seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(json.dumps([line[name] for name in KEY if name != "seed"]), []).append(line)

    def estimate(group: list[dict[str, Any]], name: str, form: str = "{:.1f}") -> str:
        if name not in group[0]:
            return ""
        rows = np.array([line[name] for line in group])
        found = estimate_mean(rows)
        return "{} ({} to {})".format(*(form.format(value) for value in (found.mean, found.low, found.high)))

    def quality(line: dict[str, Any]) -> float:
        return float(np.mean(line["scores"] if "scores" in line else line["successes"]))

    best = {line["source"]: quality(line) for line in lines if line["method"] == "teacher"}
    rows = []
    for group in groups.values():
        first = group[0]
        of = first["method"] if first["size"] is None else f"{first['size']} pairs by `{first['method']}`"
        by = first["protocol"] + (f" {json.dumps(first['settings'])}" if first["settings"] else "")
        score = float(np.mean([quality(line) for line in group]))
        share = f"{100 * score / best[first['source']]:.0f}%" if first["source"] in best else ""
        told = [estimate(group, name) for name in ("students", "scores", "successes")]
        seconds = f"{np.mean([line['seconds'] for line in group]):.0f}"
        rows.append([first["source"], of, by, str(len(group)), *told, share, seconds])
    return markdown_table(HEAD, rows)


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("source", nargs="?")
    parser.add_argument("--methods", nargs="*", default=["pbc", "opw"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[16, 64])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--teacher", default="discrete_cql")
    parser.add_argument("--updates", type=int)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--protocols", nargs="*", default=["own"])
    parser.add_argument("--whole", type=int, default=1, help="seeds whose students of the whole data are judged")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        for line in results(given):
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(
                line["method"],
                line["size"],
                line["seed"],
                line["protocol"],
                estimate_mean(np.array([line["students"]])),
            )
    print(table([json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()]))


if __name__ == "__main__":
    main()
