"""Teachers trained with d3rlpy: the public function."""

from collections.abc import Mapping
from typing import Any

from minari_obd.registry import TEACHERS
from minari_obd.settings.checks import check_instance
from minari_obd.sources.data import OfflineData
from minari_obd.support.devices import choose_device
from minari_obd.support.tracking import Track, TrackerName, tracking
from minari_obd.teachers.algorithms import episodes_for
from minari_obd.teachers.frozen import FrozenTeacher
from minari_obd.teachers.run import TeacherRun

__all__ = ["train_teacher"]


def train_teacher(
    data: OfflineData,
    algorithm: str = "bc",
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    average: float = 0.0,
    precision: str = "auto",
    confidence: float | None = None,
    best_episodes: float | None = None,
    progress: bool = True,
    track: TrackerName | Track | None = None,
) -> FrozenTeacher:
    """Train an offline-RL teacher, or load it if this very training was done before.

    Args:
        data: the offline dataset.
        algorithm: ``bc``, ``td3_bc``, ``rebrac``, ``iql``, ``cql``, ``calql`` or ``mobile``; for discrete actions,
            ``discrete_cql`` or ``discrete_bcq``.
        steps: gradient steps on the algorithm's batches (256; ``rebrac`` 1,024, ``mobile`` and discrete ones 128); its
            own default if not given.
        seed: of initial weights, batches and noise.
        device: ``cpu``, ``cuda`` or ``auto``.
        options: settings of d3rlpy's configuration that are to differ, such as ``{"expectile": 0.9}``.
        average: share of the updates, the last ones, over which the actor's weights are averaged; 0 keeps the last
            weights. The average is kept if it lowers the actor's loss on a draw of the data, as ``details`` records.
        precision: of the matrix products: ``float32``; ``bfloat16`` with sums in float32, on CPUs that do this
            for float32 matrices; ``tf32`` on CUDA; ``auto`` is bfloat16 for ``cql`` and ``calql`` on such CPUs.
        confidence: of discrete actions: the likeliest one's mean probability, for the temperature; 0.9 if not given.
        best_episodes: share of the steps to train on, as for :meth:`OfflineData.best_episodes`; by default a recipe's.
        progress: show a bar.
        track: who is told losses and the mean value, as for :func:`minari_obd.distill`.

    Raises:
        NotFoundError, MissingExtraError: an unknown algorithm; d3rlpy is not installed.
        SettingError: a setting of another kind or that is not available; an algorithm for the other kind of actions.
        MinariObdError: the training diverged.
    """
    check_instance("train_teacher", data, OfflineData)
    data = episodes_for(TEACHERS.get(algorithm), data, best_episodes)
    run = TeacherRun.of(data, algorithm, steps, seed, choose_device(device), options, average, precision, confidence)
    with tracking(track, f"{data.dataset_id}-{algorithm}-seed-{seed}") as told:
        return run.train(progress=progress, track=told)
