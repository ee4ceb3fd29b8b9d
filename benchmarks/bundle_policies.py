"""Put actors of soft actor-critic, or of PPO with discrete actions, among the bundled policies, in half precision.

    python benchmarks/bundle_policies.py walker2d out/walker2d/actor_{40000,80000}.safetensors [--expert ACTOR]

An actor is a file ``actor_<steps>``: the ``.safetensors`` of ``experts.py`` or ``discrete_experts.py``, or an ``.npz``
with Flax's parameters.
Policies that are bundled already stay. An expert belongs to the expert datasets alone, not to medium and medium-replay.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import minari_obd.sources

FOLDER = Path(minari_obd.sources.__file__).parent / "policies"
_PARTS = ("hidden_0", "hidden_1", "mean", "log_std")


def read_actor(path: Path) -> dict[str, np.ndarray]:
    """Return the layers of one actor, by the names of the bundled policies, in half precision."""
    if path.suffix == ".safetensors":
        layers = load_file(path)
    else:
        saved = np.load(path)
        layers = {
            f"{part}/{name}": saved[f"params/Dense_{number}/{key}"]
            for number, part in enumerate(_PARTS)
            for name, key in (("weight", "kernel"), ("bias", "bias"))
        }
    return {name: layer.astype(np.float16) for name, layer in layers.items()}


def bundle(file: Path, actors: list[Path], expert: Path | None) -> None:
    """Add the actors to ``file``, and mark the expert in its metadata."""
    tensors, metadata = {}, {"observations": "raw"}
    if file.is_file():
        with safe_open(file, "np") as opened:
            metadata = opened.metadata()
        tensors = load_file(file)
    for actor in [*actors, *([expert] if expert else [])]:
        steps = actor.stem.removeprefix("actor_")
        tensors |= {f"{steps}/{name}": layer for name, layer in read_actor(actor).items()}
    is_sac = any("log_std" in name for name in tensors)
    metadata = {"algorithm": "soft actor-critic" if is_sac else "PPO", **metadata}
    if expert is not None:
        metadata = {**metadata, "expert": expert.stem.removeprefix("actor_")}
    save_file(tensors, file, metadata)


def main() -> None:
    """Bundle what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment")
    parser.add_argument("actors", nargs="*", type=Path)
    parser.add_argument("--expert", type=Path)
    given = parser.parse_args()
    file = FOLDER / f"{given.environment}.safetensors"
    bundle(file, given.actors, given.expert)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
