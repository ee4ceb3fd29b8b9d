"""Put a trained teacher among those that come with the package, in half precision and with its score.

    python benchmarks/bundle_teacher.py TEACHER_FOLDER hopper-medium [--episodes 100]

NAME is that of an obd-bench dataset: ``hopper-medium`` for ``obd-bench/hopper/medium-v0``. The rounded teacher is what
is scored. Its details say so, beside how it was trained.
"""

import argparse
from pathlib import Path

from minari_obd.evaluation.evaluation import evaluate
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.storage.bundled import TEACHERS_FOLDER
from minari_obd.teachers.frozen import FrozenTeacher, read_teacher, write_teacher
from minari_obd.teachers.loading import load_teacher


def bundle(teacher: FrozenTeacher, name: str, *, episodes: int = 100, folder: Path = TEACHERS_FOLDER) -> FrozenTeacher:
    """Round, score and write a teacher, and return what was written.

    Raises:
        SystemExit: the teacher was trained on other data than the name says.
    """
    dataset_id = "obd-bench/{}/{}-v0".format(*name.split("-", 1))
    if teacher.details.get("data") != dataset_id:
        raise SystemExit(f"The teacher was trained on {teacher.details.get('data')}, not on {dataset_id}.")
    halved = teacher.halved()
    score = evaluate(halved, env=BENCHMARK[dataset_id].env_id, students=1, episodes=episodes, seed=0, workers=1).score
    interval = [round(score.low, 2), round(score.high, 2)]
    halved = halved.with_details(
        score=round(score.mean, 2), score_interval=interval, score_episodes=episodes, weights="half precision"
    )
    path = folder / f"{name}.safetensors"
    write_teacher(halved, path, half_precision=True)
    path.chmod(0o644)
    return read_teacher(path)


def main() -> None:
    """Bundle the teacher that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("name")
    parser.add_argument("--episodes", type=int, default=100)
    given = parser.parse_args()
    written = bundle(load_teacher(given.teacher), given.name, episodes=given.episodes)
    size = (TEACHERS_FOLDER / f"{given.name}.safetensors").stat().st_size
    print(f"{given.name}: {size / 1e6:.2f} MB, score {written.details['score']} {written.details['score_interval']}")


if __name__ == "__main__":
    main()
