"""The card of a teacher: README.md of its repository on the Hugging Face Hub."""

import json

import numpy as np

from minari_obd.errors import printable
from minari_obd.support.tables import markdown_table
from minari_obd.teachers.actor_critic import ActorCritic

__all__ = ["TEACHER_FILE", "algorithm_of", "teacher_card"]

TEACHER_FILE = "teacher.safetensors"


def teacher_card(teacher: ActorCritic, repo_id: str, license: str | None = None) -> str:
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
    layers = f"{len(widths)} {teacher.activation} layers of {units} units"
    how = f"{layers}, tanh in the end."
    if teacher.choice is not None:
        how = f"Probabilities of discrete actions: the softmax of their values / {teacher.choice.temperature:.4g}"
        how += f", of those that an imitator of the data finds likely ({layers})." if teacher.actor else "."
    low, high = _numbers(teacher.action_low), _numbers(teacher.action_high)
    kind = {"mean": "the mean", "min": "the least"}[teacher.value_from]
    return printable(f"""---
{yaml}
---

# {name}

A policy with values, trained by {algorithm_of(teacher)} and frozen, from which
[minari-obd](https://github.com/minari-obd/minari-obd) distils a few hundred (state, action) pairs.

{markdown_table(["", ""], [*details, ["weights (sha256)", teacher.sha256]])}

- `act`: {teacher.normaliser.mean.size} observations to {len(teacher.action_low)} actions between {low} and {high}, both
  in the environment's units, the same every time.
  {how}
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


def algorithm_of(teacher: ActorCritic) -> str:
    """What the details say of the algorithm, in one line of at most 100 characters."""
    return " ".join(str(teacher.details.get("algorithm", "an unknown algorithm")).split())[:100]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values.tolist()))
