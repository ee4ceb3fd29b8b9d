"""Published results for comparison: normalised returns on D4RL's MuJoCo v2 data, not on that of ``obd-bench``."""

__all__ = ["PUBLISHED", "published_score"]

_COLUMNS = ("halfcheetah/medium-replay", "halfcheetah/medium", "hopper/medium-replay", "hopper/medium")


# Tables 1 of arXiv 2410.22728 and 2512.06692; 256 pairs, students as in the paper, Cal-QL teacher.
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "random": (0.9, 1.8, 19.1, 19.2),
    "dbc": (2.5, 28.2, 12.1, 37.8),
    "pbc": (19.4, 30.9, 35.6, 25.1),
    "av_pbc": (35.9, 36.9, 40.9, 32.5),
    "sdw": (None, 39.5, None, 38.4),
    "whole_data": (14.0, 42.3, 22.9, 50.2),
    "teacher": (45.8, 47.6, 98.0, 56.4),
}


def published_score(dataset_id: str, method: str) -> float | None:
    """Return the papers' score of a method on the D4RL dataset of the same name, if there is one."""
    name = next((column for column in _COLUMNS if f"/{column}-v" in dataset_id), None)
    return None if name is None or method not in PUBLISHED else PUBLISHED[method][_COLUMNS.index(name)]
