"""Policies: cloned students that act as one, and their files."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minari_obd.cloning.card import policy_card
from minari_obd.cloning.folder import POLICY, Config, write
from minari_obd.cloning.lineage import Lineage
from minari_obd.cloning.module import PolicyModule, write_onnx
from minari_obd.errors import DataError, SettingError, printable
from minari_obd.scores.references import ReferenceScores
from minari_obd.scores.report import EvaluationReport
from minari_obd.settings.checks import check_instance
from minari_obd.settings.protocols import StudentProtocol
from minari_obd.sources.fields import ObservationField, flatten_observation
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.storage.files import is_there
from minari_obd.storage.hub import check_repository_id, publish
from minari_obd.storage.tensors import check_replaceable_file, write_tensors
from minari_obd.students.networks import Student, make_student
from minari_obd.support.discrete import chosen
from minari_obd.support.licences import check_known_license

__all__ = ["FORMAT", "KEY", "Policy"]

FORMAT = 2
"""The newest of the one file; continuous policies are written as format 1."""

KEY = "minari_obd_policy"
"""Of the header in the one file."""


@dataclass(frozen=True)
class Policy:
    """E cloned students; called as one policy, they act by the mean of their actions.

    Of discrete actions, that is the likeliest by the mean of their probabilities.
    """

    parameters: list[Tensor]
    """Trained parameters; every tensor has E rows."""
    protocol: StudentProtocol
    normaliser: Normaliser
    action_low: np.ndarray
    """Lowest action, shape (A,)."""
    action_high: np.ndarray
    """Highest action, shape (A,)."""
    env_id: str | None = None
    """Environment that the pairs are about, if known."""
    reference: ReferenceScores | None = None
    """Reference scores of that environment, if there are any."""
    observation_fields: tuple[ObservationField, ...] = ()
    """Which columns hold which part of the observations, where the data's were dicts or tuples; else empty."""
    first_action: int | None = None
    """Number of the first of discrete actions; None if actions are continuous."""
    lineage: Lineage = Lineage()  # noqa: RUF009  # frozen, so that all can share it
    """What the policy was made from."""
    evaluation: EvaluationReport | None = None
    """The last evaluation, for the card; None if there was none."""
    origin: str | None = field(default=None, compare=False)
    """Where it was loaded from: a folder, or ``organisation/name@commit``."""

    @property
    def action_scale(self) -> ActionScale:
        """Between raw actions and those on [-1, 1]."""
        return ActionScale(self.action_low, self.action_high)

    @property
    def students(self) -> int:
        """E, the number of students."""
        return len(self.parameters[0])

    def __repr__(self) -> str:
        env, network = self.env_id or "unknown", f"{self.protocol.network} {self.protocol.depth}x{self.protocol.width}"
        sizes = f"{self.normaliser.mean.size} observations to {np.asarray(self.action_low).size} "
        sizes += "actions" if self.first_action is None else "discrete actions"
        return printable(f"Policy({self.students} student(s) of {network}, {sizes}, environment {env})")

    def __call__(self, observations: Any) -> np.ndarray:
        """Raw observations (B, S), or one (S,), to raw actions (B, A), or one (A,).

        Discrete actions are numbers, (B,), or one.
        Where the data had dicts or tuples, it takes those too: one, or one of arrays with a batch's axis first.

        Raises:
            DataError: observations of another size, or without a part that the data had.
        """
        actions, single = self._mean(observations)
        actions = actions if self.first_action is None else chosen(actions, self.first_action)
        return actions[0] if single else actions

    def _mean(self, observations: Any) -> tuple[np.ndarray, bool]:
        """Mean of the students' actions, or probabilities, (B, A), and whether one observation was given."""
        fields = self.observation_fields
        observations = self._array(self._flat(observations))
        are_numbers = observations.dtype.kind in "iu" and observations.ndim <= 1
        if are_numbers and fields and not fields[0].name and fields[0].one_hot:  # of states: the space is a Discrete
            observations = flatten_observation(fields, observations)
        single = observations.ndim == 1
        return self.act_each(observations[None] if single else observations).mean(axis=0), single

    def _flat(self, observations: Any) -> Any:
        """Columns beside each other, where the data's observations were dicts or tuples."""
        if self.observation_fields and isinstance(observations, Mapping | tuple):
            return flatten_observation(self.observation_fields, observations)
        return observations

    def _array(self, observations: Any) -> np.ndarray:
        size = self.normaliser.mean.size
        try:
            found = np.asarray(observations)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors with gradients or on a GPU
            text = f"The policy takes observations ({size},) or (B, {size}), as NumPy reads them: {error}"
            raise DataError(text) from error
        if found.dtype.kind not in "biuf" or found.ndim > 2:
            raise DataError(
                f"The policy takes observations ({size},) or (B, {size}) of numbers; got {found.dtype} of shape "
                f"{found.shape}."
            )
        return found

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """Return actions and ``state``: the method that Stable-Baselines3's ``evaluate_policy`` calls.

        Args:
            observation: of one environment, or of several with their axis first, as a call of the policy takes them.
            state: returned as it is, since the policy has none.
            episode_start: not needed.
            deterministic: whether to take the likeliest of discrete actions. Otherwise they are drawn by their
                probabilities, from torch's global generator, as Stable-Baselines3's models do. Continuous actions are
                the same either way.
        """
        if deterministic or self.first_action is None:
            return self(observation), state
        probabilities, single = self._mean(observation)
        drawn = torch.multinomial(torch.from_numpy(probabilities).clamp(min=0.0), 1)[:, 0].numpy() + self.first_action
        return (drawn[0] if single else drawn), state

    @cached_property
    def module(self) -> PolicyModule:
        """The policy as an ``nn.Module``: raw observations in, raw actions out. It has weights of its own."""
        return self._new_module()

    def _new_module(self) -> PolicyModule:
        return PolicyModule(self._student, self.parameters, self.normaliser, self.action_scale, self.first_action)

    def to_onnx(self, path: str | Path) -> Path:
        """Write the policy as an ONNX file and return its path; the normaliser and the action scale are in the graph.

        Input ``observations``, shape (batch, S), float32, raw units. Output ``actions``, shape (batch, A), float32, raw
        units; of discrete actions their numbers, (batch,), int64.

        Raises:
            SettingError: the path does not end in ``.onnx``, or cannot be written.
            MissingExtraError: the extra ``onnx`` is not installed.
            MinariObdError: torch cannot export the student network.
        """
        return write_onnx(self._new_module(), Path(path))

    def with_evaluation(self, report: EvaluationReport) -> "Policy":
        """Return the policy with a report for its card.

        Raises:
            SettingError: something else than a report.
        """
        check_instance("with_evaluation", report, EvaluationReport)
        return replace(self, evaluation=report)

    @torch.no_grad()
    def act_each(self, observations: np.ndarray) -> np.ndarray:
        """Raw actions, or probabilities, of every student, (E, B, A), for raw observations (B, S) or (E, B, S).

        Raises:
            DataError: observations of another size, or without a part that the data had.
        """
        size = self.normaliser.mean.size
        if not isinstance(observations, np.ndarray):
            observations = self._array(self._flat(observations))
        if observations.ndim not in (2, 3) or observations.shape[-1] != size:
            raise DataError(f"The policy takes observations (B, {size}); got {observations.shape}.")
        states = torch.from_numpy(self.normaliser.normalise(observations))
        scaled = self._student.apply(self.parameters, states).numpy()
        return self.action_scale.unscale(scaled)

    @cached_property
    def _student(self) -> Student:
        return make_student(self.protocol)

    def save(self, path: str | Path) -> Path:
        """Write the policy to one safetensors file and return its path. See also :meth:`save_pretrained`.

        Raises:
            SettingError: a folder, or a file that is no policy, is there; or it cannot be written.
        """
        path = Path(path)
        check_replaceable_file(path, KEY, "policy")
        if is_there(path) and path.is_dir():
            raise SettingError(
                f"'{path}' is a folder; give the name of a file, such as policy.safetensors, or use save_pretrained."
            )
        tensors = {f"parameters/{i}": p for i, p in enumerate(self.parameters)}
        for name, value in self._arrays().items():
            tensors[name] = torch.tensor(value)
        is_discrete = self.first_action is not None
        header: dict[str, Any] = {"first_action": self.first_action} if is_discrete else {}
        header |= {"format": FORMAT if is_discrete else 1, "protocol": asdict(self.protocol), "env_id": self.env_id}
        header["reference_scores"] = None if self.reference is None else asdict(self.reference)
        header["observation_fields"] = [asdict(each) for each in self.observation_fields]
        header["lineage"] = asdict(self.lineage)
        if self.evaluation is not None:
            header["evaluation"] = self.evaluation.to_json()
        write_tensors(path, tensors, header, KEY)
        return path

    def save_pretrained(self, folder: str | Path, *, repo_id: str | None = None) -> Path:
        """Write the folder that :meth:`push_to_hub` publishes, and return it: weights, config and card.

        Its ``model.safetensors`` and ``config.json`` are as huggingface_hub's ``PyTorchModelHubMixin`` writes them. An
        older policy there is replaced.

        Args:
            folder: where.
            repo_id: ``organisation/name`` that the card is for; ``ORG`` and the folder's own name if not given.

        Raises:
            SettingError: the folder holds something else, or cannot be written.
        """
        folder, student = Path(folder), self.protocol
        sizes = self.normaliser.mean.size, np.asarray(self.action_low).size, self.students
        config = Config(*sizes, student.network, student.depth, student.width, self.first_action)
        tensors = {name: torch.tensor(value) for name, value in self._arrays().items()}
        tensors |= {f"weights.{i}": each for i, each in enumerate(self.parameters)}
        known = {
            "student": student,
            "env_id": self.env_id,
            "reference_scores": self.reference,
            "observation_fields": list(self.observation_fields),
            "lineage": self.lineage,
        }
        card = policy_card(
            *(config, student, self.lineage),
            repo_id=repo_id or f"ORG/{folder.absolute().name}",
            env_id=self.env_id,
            observation_fields=self.observation_fields,
            evaluation=self.evaluation,
        )
        return write(folder, config, tensors, known, self.evaluation, card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        license: str | None = None,
        token: str | None = None,
    ) -> str:
        """Publish as a Hugging Face model repository, in one commit; return the commit's address.

        The same policy once more makes no commit. Nothing of this machine is published.

        Args:
            repo_id: ``organisation/name``; made if it does not exist.
            private: make a new repository private.
            revision: branch to publish on, made if it does not exist; the main one if not given.
            license: the Hub's id of the licence, such as ``cc-by-4.0``; that of the pairs if not given.
            token: a Hugging Face token; that of ``hf auth login`` or ``HF_TOKEN`` if not given.

        Raises:
            SettingError: a malformed id or licence, or a repository that holds something else.
            HubError: the server refused, or cannot be reached.
        """
        check_repository_id(repo_id)
        licensed = self.lineage if license is None else replace(self.lineage, license=check_known_license(license))
        with tempfile.TemporaryDirectory() as scratch:
            # What can fail without the Hub does so before a repository is made.
            policy = replace(self, lineage=licensed)
            folder = policy.save_pretrained(Path(scratch) / repo_id.split("/")[1], repo_id=repo_id)
            files = {path.name: path for path in folder.iterdir()}
            title = f"Policy of {self.students} cloned student{'s' if self.students > 1 else ''}"
            return publish(POLICY, files, repo_id, title, private=private, revision=revision, token=token)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.normaliser.mean,
            "scale": self.normaliser.scale,
            "action_low": np.asarray(self.action_low, np.float32),
            "action_high": np.asarray(self.action_high, np.float32),
        }
