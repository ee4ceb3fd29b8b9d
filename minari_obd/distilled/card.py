"""The dataset card: README.md of a distilled dataset's folder, and its page on the Hub."""

import json
from typing import Any

from minari_obd.distilled.contents import Contents
from minari_obd.distilled.minari import minari_name
from minari_obd.errors import printable
from minari_obd.scores.report import Comparison
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.support.tables import markdown_table

__all__ = ["dataset_card"]

_MOST_RESAMPLED = 10_000
"""Students, or episodes of one student: an interval resamples them 10,000 times, which takes a second."""

_PAPERS = """\
```bibtex
@inproceedings{lei2024offline,
  title     = {Offline Behavior Distillation},
  author    = {Lei, Shiye and Zhang, Sen and Tao, Dacheng},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2410.22728}
}
@misc{lei2025state,
  title  = {State Diversity Matters in Offline Behavior Distillation},
  author = {Lei, Shiye and Cheng, Zhihao and Tao, Dacheng},
  year   = {2025},
  note   = {arXiv:2512.06692}
}
```"""


def dataset_card(dataset: Contents, repo_id: str, *, picture: str | None = None) -> str:
    """Return the card's text: YAML for the Hub, then what the set is, how it was made, how to use it.

    Args:
        dataset: the pairs.
        repo_id: ``organisation/name`` of the repository.
        picture: path of the picture of what the pairs cover, if there is one.
    """
    name = repo_id.split("/")[1]
    provenance = dataset.provenance
    # Every JSON value is a YAML value, so the header needs no YAML writer and no quoting rules of its own.
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in _header(dataset, name).items())
    s, a = dataset.observations.shape[1], dataset.actions.shape[1]
    image = f"\n![Where the pairs lie beside their source]({picture})\n" if picture else ""
    text = f"""---
{lines}
---

# {name}

{len(dataset)} (observation, action) pairs that stand for `{provenance.source}` ({provenance.source_steps:,} steps,
{dataset.env_id or "unknown environment"}), made with the method `{provenance.method}` by
[minari-obd](https://github.com/minari-obd/minari-obd) {provenance.package_version}. A policy is cloned from them in
about a second.
{image}
| column | type | meaning |
|---|---|---|
| `observation` | float32[{s}] | in the environment's units |
| `action` | float32[{a}] | in the environment's units |
{_transition_rows(dataset, s)}{_results(dataset)}
## Use

{_three_ways(repo_id, name)}
Students expect observations normalised with the mean and scale in `obd.json`; `minari_obd` does that by itself.

## How it was made

{_provenance(dataset)}

The student they were made for: {_student(dataset.protocol)}.
`obd.json` holds the full recipe, hashes and versions; `minari-obd show {repo_id} --recipe` prints the
recipe, and `minari-obd verify {repo_id}` checks what can be checked.

## Limits

{_limits(dataset)}

## Papers

{_PAPERS}
"""
    return printable(text)


def _header(dataset: Contents, name: str) -> dict[str, Any]:
    """Return the YAML metadata that the Hub reads, as JSON values."""
    count = len(dataset)
    size = next((text for most, text in _SIZES if count < most), "n>1T")
    return {
        "license": dataset.license or "unknown",
        "pretty_name": name,
        "task_categories": ["reinforcement-learning"],
        "size_categories": [size],
        "annotations_creators": ["machine-generated"],
        "tags": [
            "offline-rl",
            "dataset-distillation",
            "behavioral-cloning",
            "minari",
            "minari-obd",
            *([dataset.env_id] if dataset.env_id else []),
            dataset.provenance.method,
        ],
        # Always written, so that `datasets` does not guess at the Minari files beside the parquet file.
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_001, "100K<n<1M"))


def _transition_rows(dataset: Contents, size: int) -> str:
    if dataset.transitions is None:
        return ""
    return f"""| `reward` | float32 | of one step simulated from the pair |
| `next_observation` | float32[{size}] | after that step |
| `termination` | bool | whether that step ended in a terminal state |
"""


def _three_ways(repo_id: str, name: str) -> str:
    organisation = repo_id.split("/")[0]
    minari = f"""
```python
import minari                                            # with MINARI_REMOTE=hf://{organisation} in the environment
ds = minari.load_dataset("{name}/pairs-v0", download=True)
```
"""
    # Minari takes the repository's name from the dataset's id, so a name that no id may have cannot be reached.
    reachable = minari if minari_name(name) == name else ""
    return f"""```python
import minari_obd
policy = minari_obd.clone(minari_obd.load_dataset("{repo_id}"))   # policy(observations) -> actions
```

Without this package:

```python
import datasets
ds = datasets.load_dataset("{repo_id}", split="train").with_format("torch")
```
{reachable}"""


def _limits(dataset: Contents) -> str:
    if dataset.provenance.outer_step is None:
        nature = ["The pairs are real steps of the source, selected and not distilled: what is private there is here."]
    else:
        nature = [
            "The pairs are synthetic: an observation need not be a state that the environment can be in, and an "
            "action may lie outside the bounds.",
            "They were fitted to students of the kind named above. Others, and other ways to train them, "
            "score lower as a rule.",
        ]
    if dataset.transitions is None:
        nature.append("There are no rewards and no successors; in the Minari rendering both are placeholders.")
    else:
        nature.append("Each reward and successor is one simulated step from the pair, not a step of the source.")
    if dataset.evaluation is None:
        nature.append("No score was measured.")
    else:
        nature.append("Scores hold for the environment, the versions and the seed in `evaluation.json`.")
    if dataset.license is None:
        nature.append("The source names no licence; ask its authors before you use the pairs for more than study.")
    return "\n".join(f"- {line}" for line in nature)


def _provenance(dataset: Contents) -> str:
    p = dataset.provenance
    rows: dict[str, Any] = {
        "source": p.source,
        "source content (sha256)": p.source_sha256,
        "teacher": _teacher(p.teacher),
        "teacher (repository)": (p.teacher or {}).get("origin"),
        "teacher (sha256)": (p.teacher or {}).get("sha256"),
        "outer step": p.outer_step,
        "offline loss": None if p.offline_loss is None else f"{p.offline_loss:.5f}",
        "seed": p.seed,
        "created": p.created,
        **p.targets,
    }
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in rows.items()}
    return markdown_table(["", ""], [[key, shown[key]] for key, value in rows.items() if value is not None])


def _teacher(teacher: dict[str, Any] | None) -> str:
    if teacher is None:
        return "none"
    updates = f", {teacher['steps']} updates" if "steps" in teacher else ""
    return f"{teacher.get('algorithm')}{updates}"


def _student(protocol: StudentProtocol) -> str:
    return (
        f"{protocol.depth} hidden layers of {protocol.width}, {protocol.steps} steps of {protocol.optimiser} "
        f"at {protocol.learning_rate}"
    )


def _results(dataset: Contents) -> str:
    """The evaluation and what it is seen beside, if there was one."""
    report = dataset.evaluation
    if report is None:
        return ""
    if max(report.returns.shape) > _MOST_RESAMPLED:
        return f"\n## Results\n\nThe evaluation has {report.returns.size:,} returns, too many to summarise here.\n"
    pairs = f"**{len(dataset)} {dataset.provenance.method} pairs**"
    rows = []
    for line in (*report.comparisons, Comparison.of(pairs, len(dataset), report)):
        value = line.mean_return if report.reference is None or line.score is None else line.score
        rows.append(
            [
                line.name,
                "-" if line.pairs is None else f"{line.pairs:,}",
                f"{value.mean:.1f}",
                f"{value.low:.1f} - {value.high:.1f}",
                f"{line.students} x {line.episodes}",
            ]
        )
    unit = "return" if report.reference is None else "normalised score"
    table = markdown_table(["cloned from", "pairs", unit, "95% interval", "students x episodes"], rows)
    return f"""
## Results

In {report.env_id}, seed {report.seed}; the interval is of the mean over students.

{table}
"""
