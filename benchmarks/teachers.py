"""Teachers compared: the score, the values beside the data's returns and the training time of each algorithm.

    python benchmarks/teachers.py OUT [--data ID ...] [--teachers bc td3_bc ...] [--updates 20000] [--average 0.5]
        [--options tau=0.02 ...] [--precision float32]

Each training is scored twice, with the actor that its own loss chose and with the other one. A JSON file in OUT is one
training; those that are there are not made again, so several processes may share OUT, each with teachers of its own.
Times are of one thread, and tell of teachers only where nothing else was at work.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from minari_obd.cloning.cloning import clone
from minari_obd.evaluation.evaluation import evaluate
from minari_obd.settings.protocols import protocol_by_name
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import write_text
from minari_obd.support.tables import markdown_table
from minari_obd.teachers.calibration import calibrate
from minari_obd.teachers.loading import load_teacher
from minari_obd.teachers.protocol import Teacher
from minari_obd.teachers.run import TeacherRun

DATA = [f"obd-bench/{name}/{kind}-v0" for name in ("halfcheetah", "hopper") for kind in ("medium", "medium-replay")]
# (actor_beta, critic_beta) of ReBRAC's authors for the D4RL dataset of that name; see recipes/teachers/rebrac.toml.
REBRAC = dict(zip(DATA, [(0.001, 0.01), (0.01, 0.001), (0.01, 0.01), (0.05, 0.5)], strict=True))
OPTIONS: dict[str, dict[str, Any]] = {
    "iql": {"expectile": 0.7, "weight_temp": 3.0},
}
HEAD = ["data", "teacher", "updates", "score", "other actor", "value", "return", "rank correlation", "minutes"]


def score(policy: Any, data: OfflineData, runs: int) -> dict[str, float]:
    """Mean normalised score and 95% interval over 100 episodes, of ``runs`` students."""
    report = evaluate(policy, env=data.env_id, students=runs, episodes=100 // runs, seed=0)
    return {"mean": report.score.mean, "low": report.score.low, "high": report.score.high}


def study(
    data: OfflineData, algorithm: str, updates: int, average: float, changes: dict[str, float], precision: str
) -> dict[str, Any]:
    """Train, calibrate and score one teacher."""
    options = dict(OPTIONS.get(algorithm, {}))
    if algorithm == "rebrac":
        options["actor_beta"], options["critic_beta"] = REBRAC[data.dataset_id]
    options |= changes
    run = TeacherRun.of(data, algorithm, updates, 0, torch.device("cpu"), options, average, precision)
    was_there, start = run.is_cached or run.checkpoint.is_file(), time.perf_counter()
    teacher = run.train()
    seconds = None if was_there else time.perf_counter() - start
    other: Teacher | None = load_teacher(run.cache_folder / "other") if average else None
    return {
        "algorithm": algorithm,
        "options": options,
        "changes": changes,
        "updates": updates,
        "precision": run.precision,
        "actor": teacher.details.get("actor", "last"),
        "seconds": seconds,
        "calibration": calibrate(teacher, data).to_json(),
        "score": score(teacher, data, 1),
        "other": other and score(other, data, 1),
    }


def baseline(data: OfflineData) -> dict[str, Any]:
    """Behavioural cloning on the whole dataset."""
    start = time.perf_counter()
    policy = clone(data, students=10, protocol=protocol_by_name("whole_data"), seed=0)
    seconds = (time.perf_counter() - start) / 10
    return {"algorithm": "whole-data cloning", "updates": 3_000, "seconds": seconds, "score": score(policy, data, 10)}


def row(data: str, found: dict[str, Any]) -> list[str]:
    """Write one result as a line of the table."""

    def interval(each: dict[str, float] | None) -> str:
        return "" if each is None else f"{each['mean']:.1f} [{each['low']:.1f}, {each['high']:.1f}]"

    told = found.get("calibration") or {}
    values = [f"{told[name]:.3g}" if told.get(name) is not None else "" for name in ("mean_value", "mean_return")]
    rank = f"{told['rank_correlation']:.2f}" if told.get("rank_correlation") is not None else ""
    other = interval(found.get("other"))
    named = f"{other} ({'last' if found.get('actor') == 'average' else 'average'})" if other else ""
    minutes = "" if found["seconds"] is None else f"{found['seconds'] / 60:.1f}"
    name = data.removeprefix("obd-bench/").removesuffix("-v0")
    changes = "".join(f", {key} {value:g}" for key, value in found.get("changes", {}).items())
    return [
        name,
        found["algorithm"] + changes,
        f"{found['updates']:,}",
        interval(found["score"]),
        named,
        *values,
        rank,
        minutes,
    ]


def main() -> None:
    """Make what is missing, and print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="*", default=DATA)
    parser.add_argument("--teachers", nargs="*", default=["bc", "td3_bc", "rebrac", "iql", "cql", "calql"])
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--average", type=float, default=0.5)
    parser.add_argument("--options", nargs="*", default=[])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    given = parser.parse_args()
    changes = {name: float(value) for name, value in (each.split("=") for each in given.options)}
    extra = [] if given.precision == "auto" else [given.precision]
    torch.set_num_threads(1)
    for name in given.data:
        for algorithm in given.teachers:
            is_baseline = algorithm == "bc"
            count = "" if is_baseline else "-".join(["", str(given.updates), *given.options, *extra])
            file = given.out / f"{name.replace('/', '.')}-{algorithm}{count}.json"
            if not file.is_file():
                data = load_offline_data(name)
                chosen = algorithm, given.updates, given.average, changes, given.precision
                found = baseline(data) if is_baseline else study(data, *chosen)
                write_text(file, json.dumps({"data": name, **found}, indent=1) + "\n")
    results = [json.loads(file.read_text()) for file in sorted(given.out.glob("*.json"))]
    print(markdown_table(HEAD, [row(found["data"], found) for found in results]))


if __name__ == "__main__":
    main()
