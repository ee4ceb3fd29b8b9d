"""The policy as a torch module, and as an ONNX file: raw observations in, raw actions out."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minari_obd.errors import MinariObdError, SettingError
from minari_obd.sources.scaling import ActionScale, Normaliser
from minari_obd.storage.files import check_writable_file, write_bytes
from minari_obd.students.networks import Student
from minari_obd.support.libraries import check_installed

__all__ = ["PolicyModule", "write_onnx"]


class PolicyModule(nn.Module):
    """E students that act by their mean, with the normaliser before them and the action scale behind them.

    Its state dict has the names of a published ``model.safetensors``: ``mean`` and ``scale`` (S,), ``action_low`` and
    ``action_high`` (A,), and ``weights.0``, ``weights.1``, ... with a row for each student.
    """

    mean: Tensor
    scale: Tensor
    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        student: Student,
        weights: Sequence[Tensor],
        normaliser: Normaliser,
        action_scale: ActionScale,
        first_action: int | None,
    ) -> None:
        super().__init__()
        self.student = student
        self.first_action = first_action
        self.weights = nn.ParameterList([nn.Parameter(each.detach().clone()) for each in weights])
        arrays = {"mean": normaliser.mean, "scale": normaliser.scale}
        arrays |= {"action_low": action_scale.low, "action_high": action_scale.high}
        for name, value in arrays.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """Raw observations (B, S), or one (S,), to raw actions (B, A), or one (A,).

        Discrete actions are numbers, (B,), int64, or one.
        """
        rows = observations if observations.dim() == 2 else observations[None]
        states = ((rows - self.mean) / self.scale).to(self.weights[0].dtype)
        scaled = self.student.apply(list(self.weights), states)
        actions = (self.action_low + 0.5 * (scaled + 1.0) * (self.action_high - self.action_low)).mean(dim=0)
        actions = actions if self.first_action is None else actions.argmax(dim=-1) + self.first_action
        return actions if observations.dim() == 2 else actions[0]


def write_onnx(module: PolicyModule, path: Path) -> Path:
    """Write a policy as an ONNX file: ``observations`` (batch, S), float32, to ``actions``. Any batch size goes.

    The file is whole or not there. It holds the graph and the weights, and no paths of this machine.

    Raises:
        SettingError: another suffix than ``.onnx``, or the folder cannot be written.
        MissingExtraError: onnx or onnxscript is not installed.
        MinariObdError: torch cannot export the student network.
    """
    if path.suffix != ".onnx":
        raise SettingError(f"'{path}' does not end in .onnx; name a file such as policy.onnx.")
    for library in ("onnx", "onnxscript"):
        check_installed(library, "onnx")
    check_writable_file(path)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                module.eval(),
                (torch.zeros(2, len(module.mean)),),
                dynamo=True,
                input_names=["observations"],
                output_names=["actions"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # whatever another package's network does that ONNX has no word for
            text = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise MinariObdError(f"torch cannot export this student network to ONNX: {text[0][:300]}.") from error
        assert program is not None
        content = _without_traces(program).SerializeToString()
    write_bytes(path, content)
    return path


def _without_traces(program: Any) -> Any:
    """The model's proto, without the lines of code, and their paths, that some versions of torch note of each node."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep what the exporter says about its own parts, such as torchvision's absence, from the user."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
