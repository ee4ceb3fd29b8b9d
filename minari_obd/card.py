"""The dataset card: README.md of a distilled dataset's folder, and its page on the Hub."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minari_obd.distilled import DistilledDataset

__all__ = ["dataset_card", "minari_name", "printable"]

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


def printable(text: str) -> str:
    """Replace control characters, which a downloaded set could aim at a terminal; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def minari_name(name: str) -> str:
    """Return the nearest name that Minari accepts as a namespace."""
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-")
    return cleaned if len(cleaned) > 1 else f"obd-{cleaned or 'pairs'}"


def dataset_card(dataset: "DistilledDataset", name: str) -> str:
    """Return the card's text: YAML for the Hub, then what the set is, how it was made, how to use it."""
    provenance = dataset.provenance
    environment = dataset.env_id or "unknown environment"
    header: dict[str, Any] = {
        "pretty_name": name,
        "task_categories": ["reinforcement-learning"],
        "size_categories": ["n<1K" if len(dataset) < 1_000 else "1K<n<10K"],
        "tags": ["offline-rl", "dataset-distillation", "minari", "minari-obd", environment, provenance.method],
        # Always written, so that `datasets` does not guess at the Minari files beside the parquet file.
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    # Every JSON value is a YAML value, so the header needs no YAML writer and no quoting rules of its own.
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    s, a = dataset.observations.shape[1], dataset.actions.shape[1]
    text = f"""---
{lines}
---

# {name}

{len(dataset)} (observation, action) pairs that stand for `{provenance.source}` ({provenance.source_steps:,} steps,
{environment}), made with the method `{provenance.method}` by [minari-obd](https://github.com/minari-obd/minari-obd)
{provenance.package_version}. A policy is cloned from them in about a second.

| column | type | meaning |
|---|---|---|
| `observation` | float32[{s}] | in the environment's units |
| `action` | float32[{a}] | in the environment's units |

{_nature(dataset)}
{_results(dataset)}
## Use

```python
import minari_obd
policy = minari_obd.clone(minari_obd.load_dataset("ORG/{name}"))   # policy(observations) -> actions
```

Without this package: `datasets.load_dataset("ORG/{name}", split="train")`, or, with `MINARI_REMOTE=hf://ORG`,
`minari.load_dataset("{minari_name(name)}/pairs-v0", download=True)`.
Students expect observations normalised with the mean and scale in `obd.json`.

## How it was made

{_provenance(dataset)}

The student they were made for: {dataset.protocol.depth} hidden layers of {dataset.protocol.width},
{dataset.protocol.steps} steps of {dataset.protocol.optimiser} at {dataset.protocol.learning_rate}.
`obd.json` holds the full recipe, hashes and versions.

## Papers

{_PAPERS}
"""
    return printable(text)


def _nature(dataset: "DistilledDataset") -> str:
    if dataset.provenance.outer_step is None:
        return "The pairs are real steps of the source, selected and not distilled."
    return "The pairs are synthetic: an action may lie outside the bounds, and neither rewards nor successors exist."


def _provenance(dataset: "DistilledDataset") -> str:
    p = dataset.provenance
    rows: dict[str, Any] = {
        "source content (sha256)": p.source_sha256,
        "teacher": f"{p.teacher.get('algorithm')}, {p.teacher.get('steps')} updates" if p.teacher else "none",
        "outer step": p.outer_step,
        "offline loss": None if p.offline_loss is None else f"{p.offline_loss:.5f}",
        "seed": p.seed,
        "created": p.created,
        **p.targets,
    }
    body = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    return f"| | |\n|---|---|\n{body}"


def _results(dataset: "DistilledDataset") -> str:
    """The evaluation in a sentence, if there was one."""
    report = dataset.evaluation
    if not report:
        return ""
    score = report.get("score") or report["return"]
    unit = "normalised score" if report.get("score") else "return"
    return f"""
## Result

{unit.capitalize()} {score["mean"]:.1f}, 95% interval [{score["low"]:.1f}, {score["high"]:.1f}]
({report["students"]} students x {report["episodes"]} episodes in {report["env_id"]}, seed {report["seed"]}).
"""
