"""Demo: a page that plays an episode of a student beside its teacher's. It is one file, and loads nothing."""

import base64
import html
import json
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minari_obd.cloning.cloning import clone
from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.loading import load_dataset
from minari_obd.environments.bodies import BodyEpisode, check_bodies, record_bodies
from minari_obd.environments.making import check_environment, make_environment
from minari_obd.errors import MinariObdError, NotFoundError, printable
from minari_obd.evaluation.subjects import check_subject, known_reference
from minari_obd.experiments.cell import CellResult
from minari_obd.experiments.kept import kept_teacher
from minari_obd.inspection.origins import cached_teacher, if_its_own, load_source
from minari_obd.scores.report import Comparison
from minari_obd.settings.checks import whole_number
from minari_obd.settings.recipe import recorded_recipe
from minari_obd.storage.files import check_writable_file, write_text
from minari_obd.support.streams import Stream
from minari_obd.teachers.bundled import bundled_teacher
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.loading import load_teacher

__all__ = ["write_demo", "write_demos"]

_TEMPLATE = Path(__file__).with_name("demo.html")
_FRAMES_PER_SECOND = 30
_UNIT = 0.001  # metres, of what the page holds as 16-bit numbers
_STILL = 2.0  # metres within which the view does not follow the body


@dataclass(frozen=True)
class _Actor:
    """Someone who acts on the page."""

    name: str
    about: str
    episode: BodyEpisode
    measured: Comparison | None
    """Scores over many episodes, if they were measured."""


def write_demo(
    dataset: DistilledDataset | str | Path,
    out: str | Path = "demo.html",
    *,
    teacher: FrozenTeacher | str | Path | None = None,
    env: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a page that plays one episode of a student cloned from a distilled dataset, beside its teacher's.

    Both start in the same state, the first one that :func:`minari_obd.evaluate` uses with this seed. The bodies are
    drawn by the page itself, so nothing is rendered here.

    Args:
        dataset: the pairs, or what :func:`minari_obd.load_dataset` takes.
        out: the HTML file.
        teacher: the teacher, or what :func:`minari_obd.load_teacher` takes. If not given, the dataset's own if it is
            bundled or was trained on this machine; the student is alone on the page if it was not.
        env: a plain registered id of a MuJoCo environment; the dataset's own if not given.
        seed: of the student and the start.

    Returns:
        The file.

    Raises:
        SettingError: the environment is unknown, does not fit or is not MuJoCo's; or the file cannot be written.
        NotFoundError, FormatError: the dataset or the teacher.
    """
    pairs = dataset if isinstance(dataset, DistilledDataset) else load_dataset(dataset)
    seed = whole_number("seed", seed, 0)
    env_id = env or pairs.env_id
    check_environment(env_id, (pairs.observations.shape[1], pairs.actions.shape[1]), "The set of pairs")
    assert env_id is not None
    check_writable_file(out)
    with closing(make_environment(env_id)) as environment:
        check_bodies(environment, env_id)
        if teacher is None:
            teacher = _own_teacher(pairs)
        elif not isinstance(teacher, FrozenTeacher):
            teacher = load_teacher(teacher)
        if teacher is not None:
            check_subject(teacher, environment)
    start = int(Stream.EPISODES.seeds(1, seed)[0])
    report = pairs.evaluation if pairs.evaluation is not None and pairs.evaluation.env_id == env_id else None
    measured = None if report is None else Comparison.of("student", len(pairs), report)
    student = record_bodies(env_id, start, clone(pairs, seed=seed))
    actors = [_Actor("Student", f"cloned from {len(pairs)} pairs", student, measured)]
    if teacher is not None:
        others = () if report is None else report.comparisons
        known = next((each for each in others if each.name == "(teacher)"), None)
        about = f"trained by {teacher.details.get('algorithm', 'offline RL')} on the whole dataset"
        actors.append(_Actor("Teacher", about, record_bodies(env_id, start, teacher.act), known))
    write_text(Path(out), _page(pairs, env_id, actors))
    return Path(out)


def write_demos(folder: Path, results: Iterable[CellResult]) -> dict[str, str]:
    """Write ``demo-<dataset>.html`` into a bench's folder for each dataset, of the set with the highest return.

    Args:
        folder: the bench's.
        results: the sets to choose from, each with its distilled dataset in the folder.

    Returns:
        The page's name, or the reason why there is none, for each dataset.
    """
    best: dict[str, CellResult] = {}
    for result in results:
        if result.set_key is not None:
            held = best.setdefault(result.dataset, result)
            if result.report.mean_return.mean > held.report.mean_return.mean:
                best[result.dataset] = result
    pages = {}
    for dataset, result in best.items():
        name = f"demo-{dataset.strip('/').replace('/', '-')}.html"
        try:
            pairs = load_dataset(folder / "sets" / str(result.set_key))
            write_demo(pairs, folder / name, teacher=kept_teacher(folder, pairs), seed=result.seed)
            pages[dataset] = f'<a href="{html.escape(name)}">an episode of a student beside its teacher</a>'
        except MinariObdError as error:
            pages[dataset] = html.escape(str(error))
    return pages


def _own_teacher(pairs: DistilledDataset) -> FrozenTeacher | None:
    """Return the teacher behind the pairs, if it is at hand; a path from a downloaded file is never opened."""
    if pairs.provenance.teacher is None:
        return None
    recipe = recorded_recipe(pairs.provenance.recipe, "the recipe in the provenance")
    if recipe.teacher.algorithm == "bundled":
        try:
            return if_its_own(pairs, bundled_teacher(pairs.provenance.source))
        except NotFoundError:  # of another version
            return None
    try:
        return cached_teacher(pairs, load_source(pairs))
    except NotFoundError:
        return None


def _page(pairs: DistilledDataset, env_id: str, actors: list[_Actor]) -> str:
    """Fill the template. Its names hold text that anyone may have written."""
    reference = known_reference(env_id) if env_id != pairs.env_id else pairs.reference or known_reference(env_id)
    rows, said = [], []
    for actor in actors:
        total, steps = float(actor.episode.returns[-1]), len(actor.episode.returns) - 1
        score = None if reference is None else float(reference.normalise(np.array(total)))
        end = "a terminal state was reached" if actor.episode.terminated else "time was up"
        shown = "-" if score is None else f"{score:.1f}"
        rows.append([actor.name, f"{total:,.0f}", shown, f"{steps:,}", end, _measured(actor.measured)])
        scored = "" if score is None else f" (score {score:.1f})"
        said.append(f"the {actor.name.lower()} gets a return of {total:,.0f}{scored} in {steps:,} steps, until {end}")
    p = pairs.provenance
    alone = "" if len(actors) > 1 else " Its teacher is not on this machine."
    data = json.dumps({"actors": [_packed(actor) for actor in actors]}).replace("<", "\\u003c")
    texts = {
        "title": f"{len(pairs)} pairs: {env_id}",
        "intro": (
            f"{len(pairs)} (observation, action) pairs, distilled by the method {p.method} from the {p.source_steps:,} "
            f"steps of {p.source}. A student was cloned from them alone.{alone}"
        ),
        "said": f"The start is the first one of an evaluation, and was not picked: {'; '.join(said)}.",
        "footer": f"Made by minari-obd {p.package_version}. Seen from {_side(actors)}; parts are drawn as rods.",
    }
    parts = {name: html.escape(printable(text)) for name, text in texts.items()}
    parts["figures"] = "\n".join(_figure(number, actor) for number, actor in enumerate(actors))
    parts["rows"] = "\n".join(_row(row) for row in rows)
    parts["data"] = data
    template = _TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"@@(\w+)@@", lambda found: parts[found[1]], template)


def _figure(number: int, actor: _Actor) -> str:
    name, about = html.escape(actor.name), html.escape(printable(actor.about))
    return (
        f'<figure><figcaption><h2>{name}</h2><span>{about}</span></figcaption><canvas id="body-{number}" role="img" '
        f'aria-label="The body of the {name.lower()} moving, seen from the side"></canvas>'
        f'<p class="now"><span>return so far</span> <output id="now-{number}">0</output></p></figure>'
    )


def _row(cells: list[str]) -> str:
    first, *rest = (html.escape(cell) for cell in cells)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def _measured(found: Comparison | None) -> str:
    if found is None:
        return "not measured"
    value, unit = (found.mean_return, "return ") if found.score is None else (found.score, "")
    times = f"{found.students} students x " if found.students > 1 else ""
    return f"{unit}{value.mean:.1f} ({value.low:.1f} to {value.high:.1f}), {times}{found.episodes} episodes"


def _side(actors: list[_Actor]) -> str:
    return "above" if actors[0].episode.is_from_above else "the side"


def _packed(actor: _Actor) -> dict[str, Any]:
    """Return an episode as the page's script reads it: some frames a second, little-endian numbers in base64."""
    episode = actor.episode
    stride = max(1, round(1 / _FRAMES_PER_SECOND / episode.seconds))
    rows = sorted({*range(0, len(episode.segments), stride), len(episode.segments) - 1})
    segments = episode.segments[rows]
    camera = segments[..., 0].mean(axis=(1, 2))
    if np.ptp(camera) < _STILL:
        camera = np.full_like(camera, (camera.min() + camera.max()) / 2)
    relative = segments - np.stack([camera, np.zeros_like(camera)], axis=-1)[:, None, None]
    numbers = np.clip(np.round(relative / _UNIT), -32768, 32767).astype("<i2")
    return {
        "name": actor.name,
        "parts": len(episode.radii),
        "radii": [round(float(radius), 4) for radius in episode.radii],
        "times": _base64(np.array(rows) * episode.seconds),
        "camera": _base64(camera),
        "returns": _base64(episode.returns[rows]),
        "segments": base64.b64encode(numbers.tobytes()).decode(),
        "ground": episode.has_ground,
        "follows": bool(np.ptp(camera) > 0),
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
