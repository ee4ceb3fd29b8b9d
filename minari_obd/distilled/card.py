"""The dataset card: README.md of a distilled dataset's folder, and its page on the Hub."""

import json
from typing import Any

from minari_obd.distilled.contents import Contents
from minari_obd.distilled.usage import usage
from minari_obd.errors import printable
from minari_obd.scores.report import Comparison
from minari_obd.settings.protocols import SOFTMAX, StudentProtocol
from minari_obd.support.tables import markdown_table

__all__ = ["PAPERS", "dataset_card", "limits"]

_MOST_RESAMPLED = 10_000
"""Students, or episodes of one student: an interval resamples them 10,000 times, which takes a second."""

PAPERS = """\
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
}"""
"""The papers whose methods this package implements, as BibTeX."""


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
    s, a, first = dataset.observations.shape[1], dataset.actions.shape[1], dataset.first_action
    unit = "in the environment's units" if first is None else f"probabilities of the actions {first} to {first + a - 1}"
    image = f"\n![Where the pairs lie beside their source]({picture})\n" if picture else ""
    text = f"""---
{lines}
---

# {name}

{len(dataset)} (observation, action) pairs that stand for `{provenance.source}` ({provenance.source_steps:,} steps,
{dataset.env_id or "unknown environment"}), made with the method `{provenance.method}` by
[minari-obd](https://github.com/minari-obd/minari-obd) {provenance.package_version}. A policy is cloned from them in
seconds.{_parts(dataset)}
{image}
| column | type | meaning |
|---|---|---|
| `observation` | float32[{s}] | in the environment's units |
| `action` | float32[{a}] | {unit} |
{_transition_rows(dataset, s)}{_fields(dataset)}{_results(dataset)}
## Use

{usage(dataset, repo_id)}
Students expect observations normalised with the mean and scale in `obd.json`; `minari_obd` does that by itself.

## How it was made

{_provenance(dataset)}

The student they were made for: {_student(dataset.protocol)}.
`obd.json` holds the full recipe, hashes and versions; `minari-obd show {repo_id} --recipe` prints the
recipe, and `minari-obd verify {repo_id}` checks what can be checked.

## Limits

{_listed(limits(dataset))}

## Papers

```bibtex
{PAPERS}
```
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


def _fields(dataset: Contents) -> str:
    """Return which columns hold which part, where observations were dicts or tuples."""
    if not dataset.observation_fields:
        return ""
    rows, first = [], 0
    for each in dataset.observation_fields:
        kind = f"one of {each.one_hot} values, from {each.start} up" if each.one_hot else f"shape {tuple(each.shape)}"
        rows.append([f"`observation[{first}:{first + each.size}]`", f"`{each.name}`", kind])
        first += each.size
    table = markdown_table(["columns", "part of the environment's observation", "what it is"], rows)
    return f"""
`policy(observation)` takes the dict itself, too. It was flattened as `gymnasium.spaces.flatten` does:

{table}
"""


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def limits(
    dataset: Contents, *, students: str = "students of the kind named above", named: str = ", which are named above"
) -> list[str]:
    """Return what the pairs are not good for, a sentence or two each.

    Args:
        dataset: the pairs.
        students: whom they were made for, in words.
        named: where the source's other settings are named, in words.
    """
    if dataset.provenance.outer_step is None:
        nature = ["The pairs are real steps of the source, selected and not distilled: what is private there is here."]
    else:
        nature = [
            "The pairs are synthetic: an observation need not be a state that the environment can be in"
            + ("." if dataset.is_discrete else ", and an action may lie outside the bounds."),
            f"They were fitted to {students}. Others, and other ways to train them, score lower as a rule.",
        ]
    if dataset.transitions is None:
        nature.append("There are no rewards and no successors; in the Minari rendering both are placeholders.")
    else:
        nature.append("Each reward and successor is one simulated step from the pair, not a step of the source.")
    if dataset.evaluation is None:
        nature.append("No score was measured.")
    else:
        nature.append("Scores hold for the environment, the versions and the seed in `evaluation.json`.")
    if dataset.provenance.source_changed_settings:
        nature.append(
            f"The source was recorded in an environment with other settings than are registered{named}: "
            "elsewhere, returns mean something else."
        )
    if dataset.license is None:
        nature.append("The source names no licence; ask its authors before you use the pairs for more than study.")
    return nature


def _parts(dataset: Contents) -> str:
    """Say which of the first pairs make sets of their own, if any do."""
    sizes = [size for size in dataset.nested if size < len(dataset)]
    return "".join(f" `.first({size})` is a set of its own." for size in sizes)


def _provenance(dataset: Contents) -> str:
    p = dataset.provenance
    rows: dict[str, Any] = {
        "source": p.source,
        "source content (sha256)": p.source_sha256,
        "other settings of its environment": ", ".join(f"`{name}`" for name in p.source_changed_settings) or None,
        "teacher": _teacher(p.teacher),
        "teacher (repository)": (p.teacher or {}).get("origin"),
        "teacher (sha256)": (p.teacher or {}).get("sha256"),
        "outer step": p.outer_step,
        "offline loss": None if p.offline_loss is None else f"{p.offline_loss:.5f}",
        "seed": p.seed,
        "created": p.created,
        **{f"{what} is of": package for what, package in p.plugins.items()},
        **_flat(p.targets),
    }
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in rows.items()}
    return markdown_table(["", ""], [[key, shown[key]] for key, value in rows.items() if value is not None])


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Give the values inside of dicts rows of their own."""
    rows: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key.replace('_', ' ')}" if above else key
        rows |= _flat(value, f"{key.replace('_', ' ')}: ") if isinstance(value, dict) else {name: value}
    return rows


def _teacher(teacher: dict[str, Any] | None) -> str:
    if teacher is None:
        return "none"
    updates = f", {teacher['steps']} updates" if "steps" in teacher else ""
    return f"{teacher.get('algorithm')}{updates}"


_WIDE = "an infinitely wide multi-layer perceptron with {0} hidden layers (ReLU, %s at the output), of which the last "
_WIDE += "layer alone learns, by kernel ridge regression"
_NETWORKS = {
    "softmax_kernel": _WIDE % "softmax",
    "kernel": _WIDE % "tanh",
    "softmax_mlp": "a multi-layer perceptron with {0} hidden layers of {1} (ReLU, softmax at the output)",
    "softmax_residual": "a multi-layer perceptron with {0} hidden layers of {1} and a skip connection around each "
    "hidden layer but the first (ReLU, softmax at the output)",
    "mlp": "a multi-layer perceptron with {0} hidden layers of {1} (ReLU, tanh at the output)",
    "residual": "a multi-layer perceptron with {0} hidden layers of {1} and a skip connection around each hidden layer "
    "but the first (ReLU, tanh at the output)",
}


def _student(protocol: StudentProtocol) -> str:
    network, sizes = _NETWORKS.get(protocol.network), (protocol.depth, protocol.width)
    if network is None:  # another package's; its name may hold anything
        network = f"the network `{protocol.network}` with depth {sizes[0]} and width {sizes[1]}"
    else:
        network = network.format(*sizes)
    if protocol.is_solved:
        return network
    optimiser = f"{protocol.optimiser} (momentum {protocol.momentum})" if protocol.momentum else protocol.optimiser
    batch = "all pairs at once" if protocol.batch_size is None else f"minibatches of {protocol.batch_size}"
    what = "probabilities p, taken as 2 p - 1" if protocol.network.startswith(SOFTMAX) else "actions scaled to [-1, 1]"
    return (
        f"{network}, trained on the mean squared error of {what} by {protocol.steps} steps of {optimiser} at "
        f"{protocol.learning_rate}, {batch}"
    )


def _results(dataset: Contents) -> str:
    """The evaluation and what it is seen beside, if there was one."""
    report = dataset.evaluation
    if report is None:
        return ""
    if max(report.returns.shape) > _MOST_RESAMPLED:
        return f"\n## Results\n\nThe evaluation has {report.returns.size:,} returns, too many to summarise here.\n"
    pairs = f"**{len(dataset)} {dataset.provenance.method} pairs**"
    lines = (*report.comparisons, Comparison.of(pairs, len(dataset), report))
    is_scored, rows = all(line.score is not None for line in lines), []
    has_success = any(line.success is not None for line in lines)
    for line in lines:
        value = line.score if is_scored and line.score is not None else line.mean_return
        rows.append(
            [
                line.name,
                "-" if line.pairs is None else f"{line.pairs:,}",
                f"{value.mean:.1f}",
                f"{value.low:.1f} - {value.high:.1f}",
                *([f"{line.success.mean:.1f}" if line.success else "-"] if has_success else []),
                f"{line.students} x {line.episodes}",
            ]
        )
    unit = "normalised score" if is_scored else "return"
    titles = ["cloned from", "pairs", unit, "95% interval", *(["success, %"] if has_success else [])]
    table = markdown_table([*titles, "students x episodes"], rows)
    return f"""
## Results

In {report.env_id}, seed {report.seed}; the interval is of the mean over students.

{table}
"""
