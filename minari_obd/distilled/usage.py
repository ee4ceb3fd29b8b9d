"""Usage: the code on a dataset card that loads the pairs and clones from them."""

from minari_obd.distilled.contents import Contents
from minari_obd.distilled.minari import minari_name
from minari_obd.settings.protocols import SOFTMAX
from minari_obd.support.kernel_code import numpy_kernel

__all__ = ["usage"]


def usage(dataset: Contents, repo_id: str) -> str:
    """Return Markdown: code that loads a published dataset with and without this package.

    Args:
        dataset: the pairs.
        repo_id: ``organisation/name`` of the repository.
    """
    organisation, name = repo_id.split("/")
    minari = f"""
```python
import minari  # pip install 'minari[hdf5,hf]' pillow; with MINARI_REMOTE=hf://{organisation} in the environment
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
import datasets  # pip install datasets
ds = datasets.load_dataset("{repo_id}", split="train").with_format("torch")
```
{reachable}{_cloning(dataset, repo_id)}"""


def _cloning(dataset: Contents, repo_id: str) -> str:
    """Return code that clones the student that the pairs were made for: in plain torch, for an MLP, or in NumPy."""
    p = dataset.protocol
    if p.is_solved:
        return _solving(dataset, repo_id)
    if p.network not in ("mlp", f"{SOFTMAX}mlp") or p.batch_size is not None:
        return ""
    sizes = [dataset.observations.shape[1], *[p.width] * p.depth, dataset.actions.shape[1]]
    optimiser = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[p.optimiser]
    momentum = f", momentum={p.momentum}" if p.momentum else ""
    given, output = '2 * (ds[:]["action"] - low) / (high - low) - 1', "Tanh()"
    result = "low + (net((observation - mean) / scale) + 1) / 2 * (high - low)"
    error = "(net(states) - actions).square().mean()"
    if dataset.first_action is not None:
        given, output, error = 'ds[:]["action"]', "Softmax(-1)", "(2 * (net(states) - actions)).square().mean()"
        result = f"net((observation - mean) / scale).argmax(-1) + {dataset.first_action}"
    return f"""
The same policy in plain torch, cloned from these pairs:

```python
import json, pathlib, torch
from huggingface_hub import hf_hub_download
obd = json.loads(pathlib.Path(hf_hub_download("{repo_id}", "obd.json", repo_type="dataset")).read_text())
names = "observation_mean", "observation_scale", "action_low", "action_high"
mean, scale, low, high = (torch.tensor(obd[name]) for name in names)
states, actions = (ds[:]["observation"] - mean) / scale, {given}
sizes = {sizes}
layers = [m for i, o in zip(sizes, sizes[1:]) for m in (torch.nn.Linear(i, o), torch.nn.ReLU())]
for layer in layers[::2]: torch.nn.init.orthogonal_(layer.weight, 2**0.5), torch.nn.init.zeros_(layer.bias)
net = torch.nn.Sequential(*layers[:-1], torch.nn.{output})
optimiser = torch.optim.{optimiser}(net.parameters(), lr={p.learning_rate}{momentum})
for _ in range({p.steps}):
    optimiser.zero_grad(), {error}.backward(), optimiser.step()
policy = lambda observation: {result}
```
"""


def _solving(dataset: Contents, repo_id: str) -> str:
    """Return NumPy code that solves for the infinitely wide student of the pairs."""
    given, end = '2 * (pairs["action"] - low) / (high - low) - 1', "low + (np.tanh(said) + 1) / 2 * (high - low)"
    taught = "np.arctanh(np.clip(actions, -np.tanh(3), np.tanh(3)))"
    if dataset.first_action is not None:
        given, end = 'pairs["action"]', f"said.argmax(-1) + {dataset.first_action}"
        taught = "np.log(np.maximum(actions, (1 - np.tanh(3)) / 2))"
    return f"""
The same policy in NumPy, from these pairs:

```python
import json, pathlib, numpy as np
from huggingface_hub import hf_hub_download
obd = json.loads(pathlib.Path(hf_hub_download("{repo_id}", "obd.json", repo_type="dataset")).read_text())
names = "observation_mean", "observation_scale", "action_low", "action_high"
mean, scale, low, high = (np.array(obd[name]) for name in names)
pairs = {{name: np.array(value, float) for name, value in ds.with_format("numpy")[:].items()}}
states, actions = (pairs["observation"] - mean) / scale, {given}
{numpy_kernel(dataset.protocol.depth)}
k = kernel(states, states)
taught = {taught}
weights = np.linalg.solve(k + 1e-3 * k.diagonal().mean() * np.eye(len(k)), taught)
def policy(observations):  # shape (B, {dataset.observations.shape[1]})
    said = kernel((observations - mean) / scale, states) @ weights
    return {end}
```

A network that is trained on these pairs alone errs between them. To get one, train it on this policy's actions at
states near the pairs, as `minari_obd.imitate(policy)` does.
"""
