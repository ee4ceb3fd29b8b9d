"""A teacher's repository on the Hugging Face Hub: its one file and a card, as a model."""

import json
import tempfile

import numpy as np

from minari_obd.errors import FormatError, printable
from minari_obd.storage.hub import Holding, fetch, publish
from minari_obd.support.licences import check_license
from minari_obd.support.tables import markdown_table
from minari_obd.teachers.frozen import TEACHER_FILE, FrozenTeacher, read_teacher

__all__ = ["pull_teacher", "push_teacher", "teacher_card"]

_CARD_FILE = "README.md"


_TEACHER = Holding("teacher", "model", TEACHER_FILE, (TEACHER_FILE,), (TEACHER_FILE, _CARD_FILE))


def push_teacher(
    teacher: FrozenTeacher,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a teacher and its card in one commit, and return the commit's address; the same once more makes none.

    Args and errors: as :meth:`FrozenTeacher.push_to_hub`.
    """
    check_license(license)
    with tempfile.TemporaryDirectory() as scratch:
        folder = teacher.save(scratch)
        (folder / _CARD_FILE).write_text(teacher_card(teacher, repo_id, license), encoding="utf-8")
        files = {name: folder / name for name in _TEACHER.written}
        title = f"Teacher by {_algorithm(teacher)}"
        return publish(_TEACHER, files, repo_id, title, private=private, revision=revision, token=token)


def pull_teacher(repo_id: str, *, revision: str | None = None, token: str | None = None) -> FrozenTeacher:
    """Download a teacher of one commit into huggingface_hub's cache, and check it; its ``origin`` names the commit.

    With ``HF_HUB_OFFLINE=1``, or without a connection, the commit that was fetched last is read from the cache.

    Raises:
        NotFoundError: no such repository or revision.
        HubError: the server refused, or cannot be reached and the cache has nothing.
        FormatError: the repository holds no teacher, or a damaged one.
    """
    folder = fetch(_TEACHER, repo_id, revision=revision, token=token)
    origin = f"{repo_id}@{folder.name}"
    if not (folder / TEACHER_FILE).is_file():
        raise FormatError(f"'{origin}' lacks {TEACHER_FILE}; the copy is incomplete, fetch it again.")
    return read_teacher(folder / TEACHER_FILE, origin=origin)


def teacher_card(teacher: FrozenTeacher, repo_id: str, license: str | None = None) -> str:
    """Return the card's text: YAML for the Hub, then what the teacher is, how it was trained, how to use it."""
    name = repo_id.split("/")[-1]
    header = {
        "license": license or "unknown",
        "library_name": "minari-obd",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "offline-rl", "behavior-distillation", "minari-obd"],
    }
    # Every JSON value is a YAML value, so the header needs no YAML writer and no quoting rules of its own.
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    details = [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in teacher.details.items()]
    source = teacher.details.get("data", "SOURCE")
    score = "The score is its publisher's word." if "score" in teacher.details else "No score was measured."
    widths = [len(bias) for _, bias in teacher.actor[:-1]]
    units = ", ".join(map(str, dict.fromkeys(widths))) or "no"
    low, high = _numbers(teacher.action_low), _numbers(teacher.action_high)
    kind = {"mean": "the mean", "min": "the least"}[teacher.value_from]
    return printable(f"""---
{yaml}
---

# {name}

A policy with values, trained by {_algorithm(teacher)} and frozen, from which
[minari-obd](https://github.com/minari-obd/minari-obd) distils a few hundred (state, action) pairs.

{markdown_table(["", ""], [*details, ["weights (sha256)", teacher.sha256]])}

- `act`: {teacher.normaliser.mean.size} observations to {len(teacher.action_low)} actions between {low} and {high}, both
  in the environment's units, the same every time.
  {len(widths)} {teacher.activation} layers of {units} units, tanh in the end.
- `value`: {kind} of {len(teacher.critics)} critics, in units of the rewards that they were trained on.

## Use

```python
import minari_obd
teacher = minari_obd.load_teacher("{repo_id}")                     # revision="..." for one commit for ever
pairs = minari_obd.distill({json.dumps(str(source))}, "av_pbc", teacher="{repo_id}")
```

`{TEACHER_FILE}` holds tensors and JSON: the networks, the normaliser of observations, and a hash of it all. It is no
pickle, and other programs can read it with the `safetensors` package.

## Limits

It is of use on observations like those that it was trained on. {score}
""")


def _algorithm(teacher: FrozenTeacher) -> str:
    return " ".join(str(teacher.details.get("algorithm", "an unknown algorithm")).split())[:100]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values.tolist()))
