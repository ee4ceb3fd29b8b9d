"""The card of a policy: README.md of its folder, and its page on the Hugging Face Hub."""

import json
from collections.abc import Sequence

from minari_obd.cloning.folder import CONFIG_FILE, WEIGHTS_FILE, Config
from minari_obd.cloning.lineage import ClonedFrom, Lineage
from minari_obd.errors import printable
from minari_obd.registry import STUDENTS
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.fields import ObservationField
from minari_obd.support.kernel_code import numpy_kernel
from minari_obd.support.tables import markdown_table

__all__ = ["policy_card"]


def policy_card(
    config: Config,
    protocol: StudentProtocol,
    lineage: Lineage,
    *,
    repo_id: str,
    env_id: str | None,
    observation_fields: Sequence[ObservationField] = (),
    evaluation: EvaluationReport | None = None,
) -> str:
    """Return the card's text: YAML for the Hub, then what the policy is, what from, and how to use it."""
    name = repo_id.split("/")[-1]
    header = {
        "license": lineage.license or "unknown",
        "library_name": "minari-obd",
        "pipeline_tag": "reinforcement-learning",
        "tags": [
            *("reinforcement-learning", "offline-rl", "behavior-distillation", "behavioural-cloning", "minari-obd"),
            *("model_hub_mixin", "pytorch_model_hub_mixin", *([env_id] if env_id else [])),
        ],
    }
    # Every JSON value is a YAML value, so the header needs no YAML writer and no quoting rules of its own.
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    return printable(f"""---
{yaml}
---

# {name}

A policy for {f"`{env_id}`" if env_id else "an unknown environment"}, trained by behavioural cloning with
[minari-obd](https://github.com/minari-obd/minari-obd). It takes {config.observation_size} observations in the
environment's units and gives {_actions(config)}.

{markdown_table(["cloned from", "pairs", "method", "where"], [_row(each) for each in lineage.pairs])}

{markdown_table(["", ""], _facts(config, protocol, lineage))}
{_parts_of(observation_fields)}{_results(evaluation)}
## Use

```python
import minari_obd
policy = minari_obd.load_policy("{repo_id}")  # revision="..." for one commit for ever
actions = policy(observations)                # also policy.module, policy.to_onnx("policy.onnx")
```
{_plain(config, protocol, repo_id)}
## Limits

The policy is of use on observations like those that its pairs stand for. {_limit(evaluation, lineage)}
""")


def _actions(config: Config) -> str:
    if config.first_action is None:
        return f"{config.action_size} actions in its units"
    return f"the number of one of its {config.action_size} actions, from {config.first_action} up"


def _row(each: ClonedFrom) -> list[str]:
    return [each.source, f"{each.size:,}", each.method or "(the whole dataset)", each.origin or "-"]


def _facts(config: Config, protocol: StudentProtocol, lineage: Lineage) -> list[list[str]]:
    together = "" if config.students == 1 else ", which act by their mean"
    momentum = f", momentum {protocol.momentum}" if protocol.momentum else ""
    batch = "all pairs at once" if protocol.batch_size is None else f"minibatches of {protocol.batch_size}"
    training = f"{protocol.steps} steps of {protocol.optimiser} at {protocol.learning_rate}{momentum}, {batch}"
    if lineage.is_imitation:
        training = f"by imitation of the infinitely wide student of these pairs: {training}"
    network = f"{config.network}, {config.depth} hidden layers of {config.width}"
    if protocol.is_solved:
        network = f"{config.network}, {config.depth} hidden layers, infinitely wide"
        training = "in closed form, all pairs at once"
    rows = [
        ["students", f"{config.students}{together}"],
        ["network", network],
        ["training", training],
        ["seed", "-" if lineage.seed is None else str(lineage.seed)],
    ]
    steps = lineage.environment_steps
    return [*rows, *([["fine-tuning", f"{steps:,} steps in the environment"]] if steps else [])]


def _parts_of(fields: Sequence[ObservationField]) -> str:
    if not fields:
        return ""
    named = ", ".join(f"`{each.name}` ({each.size})" for each in fields)
    return f"\nObservations are the columns of {named}, as `gymnasium.spaces.flatten` orders them.\n"


def _results(report: EvaluationReport | None) -> str:
    return "" if report is None else f"\n## Results\n\n{report.to_markdown()}"


def _limit(report: EvaluationReport | None, lineage: Lineage) -> str:
    if report is None:
        return "No score was measured."
    if report.returns.shape[0] > 1 and not lineage.environment_steps:
        return "Students were evaluated one by one; together, by their mean, they may score differently."
    return "The score holds for the environment, the versions and the seed in `evaluation.json`."


def _plain(config: Config, protocol: StudentProtocol, repo_id: str) -> str:
    """How to run the policy without this package, for the networks that are this package's own."""
    if config.network not in STUDENTS.builtin:
        return f"\nIts network `{config.network}` is of another package, which has to be installed.\n"
    change = 'np.maximum(h @ p[f"weights.{2 * i}"] + p[f"weights.{2 * i + 1}"], 0)'
    if "residual" in config.network:
        change = f"(h if i else 0) + {change}"
    last = 'h @ p[f"weights.{2 * depth}"] + p[f"weights.{2 * depth + 1}"]'
    if config.first_action is None:
        end = f"""    a = np.tanh({last}).mean(axis=0)  # over students
    return p["action_low"] + (a + 1) / 2 * (p["action_high"] - p["action_low"])"""
    else:
        end = f"""    likely = softmax({last}, axis=-1).mean(axis=0)  # over students
    return likely.argmax(axis=-1) + config["first_action"]"""
    softmax = "" if config.first_action is None else "\nfrom scipy.special import softmax"
    body = f"""    h, depth = (observations - p["mean"]) / p["scale"], config["depth"]
    for i in range(depth):
        h = {change}
{end}"""
    define = ""
    if protocol.is_solved:  # the pairs' states, and their coefficients
        define = f"\n{numpy_kernel(config.depth)}\n"
        said = 'np.stack([kernel(h, x) @ c for x, c in zip(p["weights.0"], p["weights.1"])])'
        body = f"""    h = (observations - p["mean"]) / p["scale"]
{end.replace(last, said)}"""
    return f"""
Without this package:

```python
import json
from pathlib import Path

import numpy as np
from huggingface_hub import hf_hub_download
from safetensors.numpy import load_file{softmax}

p = load_file(hf_hub_download("{repo_id}", "{WEIGHTS_FILE}"))
config = json.loads(Path(hf_hub_download("{repo_id}", "{CONFIG_FILE}")).read_text())
{define}
def policy(observations):  # (B, {config.observation_size}), in the environment's units
{body}
```

A torch module with huggingface_hub's `PyTorchModelHubMixin` can load the repository as well: its arguments are those in
`{CONFIG_FILE}`, its buffers `mean`, `scale`, `action_low` and `action_high`, its parameters `weights.0` and so on.
"""
