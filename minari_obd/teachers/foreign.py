"""Other people's teachers: CORL's checkpoints and Stable-Baselines3's zips, read as weights alone."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minari_obd.errors import FormatError, SettingError
from minari_obd.sources.scaling import Normaliser
from minari_obd.storage.torch_files import (
    StableBaselines3Zip,
    load_weights,
    plain_layer,
    plain_layers,
    read_stable_baselines3,
)
from minari_obd.teachers.choice import Choice
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.networks import ACTIVATIONS, Layers

__all__ = ["ForeignSettings", "read_corl", "read_sb3"]


@dataclass(frozen=True)
class ForeignSettings:
    """What a file does not say of its networks; None where the caller does not say it either."""

    normaliser: Normaliser | tuple[Any, Any] | None = None
    """The networks take (observation - first) / second, each a number or an array (S,)."""
    action_bounds: tuple[Any, Any] | None = None
    """Lowest and highest action, each a number or an array (A,)."""
    activation: str | None = None
    """``relu``, ``tanh`` or ``elu``."""

    def __post_init__(self) -> None:
        for name in ("normaliser", "action_bounds"):
            pair = getattr(self, name)
            if not (
                pair is None or isinstance(pair, Normaliser) or (isinstance(pair, tuple | list) and len(pair) == 2)
            ):
                raise SettingError(f"{name} is a pair, (mean, scale) or (lowest, highest); got {pair!r}.")
        if self.activation not in (None, *ACTIVATIONS):
            raise SettingError(f"activation is one of {', '.join(ACTIVATIONS)}; got {self.activation!r}.")


def read_corl(path: Path, settings: ForeignSettings) -> FrozenTeacher:
    """Read a checkpoint of CORL's ``cal_ql.py``, ``cql.py``, ``iql.py`` or ``td3_bc.py`` (PyTorch).

    Actions are m tanh(mean), where m is the highest action (1 unless bounds are given); the value is the least of the
    two critics, as in CORL's own targets. CORL normalises observations by the mean and the standard deviation + 0.001
    of its dataset, and saves neither.

    Raises:
        FormatError: not a torch checkpoint, one that names more than tensors, or other networks than those.
        SettingError: no normaliser, or bounds that are not -m and m.
    """
    state = load_weights(path, str(path))
    layout = next((each for each in _LAYOUTS if each.keys() <= state.keys()), None)
    if layout is None:
        keys = ", ".join(sorted(repr(key)[:40] for key in state)[:20])
        raise FormatError(f"'{path}' has {keys}, which is not a checkpoint of CORL's cal_ql, cql, iql or td3_bc.")
    actor = plain_layers(state["actor"], f"the actor in '{path}'", *layout.actor, beside=("log_std",))
    if layout.halved:
        weight, bias = actor[-1]
        actor[-1] = weight[: len(bias) // 2].clone(), bias[: len(bias) // 2].clone()
    critics = [
        plain_layers(state[key], f"a critic in '{path}'", *prefixes, beside=("q1.", "q2.") if key == "qf" else ())
        for key, prefixes in layout.critics
    ]
    if settings.normaliser is None:
        raise SettingError(
            f"'{path}' is a CORL checkpoint, and those lack the normaliser of their observations; give "
            "normaliser=(mean, scale), such as `load_offline_data(...).normaliser` of the data that it was trained "
            "on, or (0, 1) if that was with normalize=False."
        )
    low, high = (_vector(bound, len(actor[-1][1]), "action_bounds") for bound in settings.action_bounds or (-1, 1))
    if not np.array_equal(low, -high):
        raise SettingError(f"CORL's actions lie between -m and m; got action_bounds {low} and {high}.")
    return FrozenTeacher(
        actor=actor,
        critics=[_of_scaled_actions(critic, high) for critic in critics],
        normaliser=_normaliser(settings.normaliser, actor),
        action_low=low,
        action_high=high,
        details=_details(layout.algorithm, state.get("total_it"), "CORL", path),
        value_from="min",
        activation=settings.activation or "relu",
    )


def read_sb3(path: Path, settings: ForeignSettings) -> FrozenTeacher:
    """Read a zip of Stable-Baselines3's SAC, TD3, DDPG or DQN with an MlpPolicy on flat observations.

    The value is the least of the critics. Bounds of actions and activation are those that the zip's settings print
    beside their pickles, unless they are given. Observations are not normalised unless a normaliser is given, which
    is needed after training under ``VecNormalize``. DQN's actions are discrete, with a temperature of 1 until a run, or
    :meth:`FrozenTeacher.with_confidence`, finds one from data.

    Raises:
        FormatError: not such a zip, or other networks than those.
        SettingError: the settings do not print bounds or activation so that they can be read.
    """
    file = read_stable_baselines3(path)
    if "q_net.q_net.0.weight" in file.weights:
        return _read_dqn(file, path, settings)
    parts = {
        part: {name.removeprefix(f"{part}."): t for name, t in file.weights.items() if name.startswith(f"{part}.")}
        for part in ("actor", "critic")
    }
    is_sac = "latent_pi.0.weight" in parts["actor"]
    count = len({name.split(".")[0] for name in parts["critic"]})
    if not count or (is_sac and "mu.weight" not in parts["actor"]):  # PPO and A2C value no actions; gSDE clips means
        raise FormatError(f"'{path}' holds no MlpPolicy of SAC (without gSDE), TD3, DDPG or DQN, which can be read.")
    file.check_plain(path)
    if is_sac:
        actor = plain_layers(parts["actor"], f"the actor in '{path}'", "latent_pi.", beside=("mu.", "log_std."))
        actor.append(plain_layer(parts["actor"], "mu", f"the actor in '{path}'"))
    else:
        actor = plain_layers(parts["actor"], f"the actor in '{path}'", "mu.")
    low, high = settings.action_bounds or _printed_bounds(file.settings, path)
    size = len(actor[-1][1])
    return FrozenTeacher(
        actor=actor,
        critics=[
            plain_layers(parts["critic"], f"a critic in '{path}'", f"qf{i}.", beside=("qf",)) for i in range(count)
        ],
        normaliser=_normaliser(settings.normaliser or (0.0, 1.0), actor),
        action_low=_vector(low, size, "action_bounds"),
        action_high=_vector(high, size, "action_bounds"),
        details=_details(
            "sac" if is_sac else "td3" if count > 1 else "ddpg",
            file.settings.get("num_timesteps"),
            "Stable-Baselines3",
            path,
        ),
        value_from="min",
        activation=settings.activation or _printed_activation(file, path),
    )


def _read_dqn(file: StableBaselines3Zip, path: Path, settings: ForeignSettings) -> FrozenTeacher:
    file.check_plain(path)
    if settings.action_bounds is not None:
        raise SettingError(f"The actions of '{path}' are discrete and have no bounds; leave action_bounds out.")
    state = {name: t for name, t in file.weights.items() if name.startswith("q_net.")}
    critic = plain_layers(state, f"the critic in '{path}'", "q_net.q_net.")
    count = len(critic[-1][1])
    return FrozenTeacher(
        actor=[],
        critics=[critic],
        normaliser=_normaliser(settings.normaliser or (0.0, 1.0), critic),
        action_low=np.zeros(count),
        action_high=np.ones(count),
        details=_details("dqn", file.settings.get("num_timesteps"), "Stable-Baselines3", path),
        activation=settings.activation or _printed_activation(file, path),
        choice=Choice(1.0),
    )


@dataclass(frozen=True)
class _Layout:
    """Where one kind of CORL checkpoint keeps its networks."""

    algorithm: str
    actor: tuple[str, ...]
    """What the names of the actor's layers may begin with."""
    critics: tuple[tuple[str, tuple[str, ...]], ...]
    """The checkpoint's key of each critic, and what the names of its layers may begin with."""
    halved: bool = False
    """Whether the actor's outputs are the means and, behind them, deviations."""

    def keys(self) -> set[str]:
        return {"actor", *(key for key, _ in self.critics)}


_Q = ("network.", "network.network.")


_LAYOUTS = (
    # The two write the same kind of file.
    _Layout("cql or calql", ("base_network.", "base_network.network."), (("critic1", _Q), ("critic2", _Q)), True),
    _Layout("td3_bc", ("net.",), (("critic_1", ("net.",)), ("critic_2", ("net.",)))),
    _Layout("iql", ("net.net.",), (("qf", ("q1.net.",)), ("qf", ("q2.net.",)))),
)


def _of_scaled_actions(critic: Layers, high: np.ndarray) -> Layers:
    """The same critic for actions on [-1, 1] instead of [-high, high]: the scale goes into the first weights."""
    if (high == 1).all():
        return critic
    (weight, bias), *rest = critic
    states = torch.ones(weight.shape[1] - len(high))
    return [(weight * torch.cat([states, torch.from_numpy(high)]), bias), *rest]


def _normaliser(given: Normaliser | tuple[Any, Any], actor: Layers) -> Normaliser:
    if isinstance(given, Normaliser):
        return given
    mean, scale = (_vector(part, actor[0][0].shape[1], "normaliser") for part in given)
    return Normaliser(mean, scale)


def _vector(value: Any, size: int, name: str) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(value, dtype=np.float32), (size,)).copy()
    except (TypeError, ValueError):
        raise SettingError(
            f"{name} is a pair, each a number or an array of shape ({size},) for these networks; got {value!r}."
        ) from None


def _details(algorithm: str, steps: Any, library: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    counted = {"steps": steps} if type(steps) is int and 0 <= steps < 2**53 else {}
    return {"algorithm": algorithm, **counted, "library": library, "checkpoint_sha256": digest}


def _printed_bounds(settings: dict[str, Any], path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (
            np.array(settings["action_space"][name].strip("[] ").split(), np.float32) for name in ("low", "high")
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise SettingError(
            f"'{path}' does not print the bounds of its actions readably; give action_bounds=(low, high)."
        ) from None
    return low, high


def _printed_activation(file: StableBaselines3Zip, path: Path) -> str:
    name = file.activation("ReLU")
    if name not in ACTIVATIONS:
        raise SettingError(
            f"'{path}' has the activation {name[:100]}; only {', '.join(ACTIVATIONS)} can be read. If that is "
            "one of them by another name, give activation=."
        )
    return name
