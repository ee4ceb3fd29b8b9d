"""Fine-tuning: a policy cloned from pairs goes on learning in its environment, reminded of what it could."""

import contextlib
import io
from pathlib import Path

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.finetuning.arguments import Arguments
from minari_obd.finetuning.reminder import check_reminder_data
from minari_obd.finetuning.report import FinetuneReport
from minari_obd.settings.checks import check_instance, whole_number
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.sources.data import OfflineData
from minari_obd.sources.loading import load_offline_data
from minari_obd.storage.files import check_new, check_writable
from minari_obd.support.devices import cpu_threads
from minari_obd.support.tracking import Track, TrackerName, check_track, tracking

__all__ = ["finetune"]


def finetune(
    ds: DistilledDataset | OfflineData,
    env_id: str | None = None,
    *,
    steps: int,
    seed: int = 0,
    settings: FinetuningRecipe | None = None,
    bc_data: DistilledDataset | OfflineData | str | None = None,
    out: str | Path | None = None,
    label: str = "fine-tuned",
    resume: bool = True,
    progress: bool = True,
    track: TrackerName | Track | None = None,
) -> FinetuneReport:
    """Clone a policy from pairs and let it go on learning in its environment.

    Of pairs for infinitely wide students it is a network that imitates their clone (:func:`minari_obd.imitate`).

    The learner is Stable-Baselines3's TD3 with the loss of :class:`FinetuningRecipe`. A checkpoint is written every two
    minutes and at an interrupt; called again with the same arguments, a run goes on from it and ends as if it had
    never stopped, to the bit on the CPU.

    Args:
        ds: what the policy is cloned from: distilled pairs, or a whole offline dataset.
        env_id: a plain registered Gymnasium id; the dataset's own if not given.
        steps: environment steps; there is one update a step.
        seed: of the clone, the learner, its episodes and the evaluations' starts.
        settings: everything else; the defaults of :class:`FinetuningRecipe` if not given.
        bc_data: with ``bc_states="data"`` in the settings, whose states the actor is reminded at, itself or as a Minari
            id; ``ds`` if not given. They are answered as the clone answers them, or by their own actions with
            ``bc_target="actions"``.
        out: a folder for ``curve.csv`` (after every evaluation), ``report.json`` and ``policy.safetensors``.
        label: what the run is called in tables and pictures.
        resume: go on from a checkpoint of the same run, if there is one.
        progress: show a bar.
        track: who is told the returns of training episodes and evaluations, as for :func:`minari_obd.distill`.

    Raises:
        MissingExtraError: Stable-Baselines3 is not installed.
        SettingError: settings that make no sense together, an environment that does not fit the pairs, or a folder
            that cannot be written or holds a report.
        NotFoundError: the environment or ``bc_data`` does not exist.
        DataError: pairs that do not fit each other.
        MinariObdError: the learner diverged.
    """
    check_track(track)
    check_instance("finetune", ds, DistilledDataset, OfflineData)
    settings, folder = settings or FinetuningRecipe(), None if out is None else Path(out)
    check_instance("The argument settings", settings, FinetuningRecipe)
    if folder is not None:
        check_new(folder / "report.json")
    if bc_data is not None:
        check_reminder_data(settings)
    reminder = ds if bc_data is None else load_offline_data(bc_data) if isinstance(bc_data, str) else bc_data
    check_instance("The argument bc_data", reminder, DistilledDataset, OfflineData)
    steps, seed = whole_number("steps", steps, 1), whole_number("seed", seed, 0)
    arguments = Arguments(ds, env_id or ds.env_id, steps, seed, settings, reminder)
    arguments.check()
    if folder is not None:
        check_writable(folder / "report.json")
    with contextlib.redirect_stderr(io.StringIO()):  # Gym's notice, where Gym is installed
        from minari_obd.finetuning.loop import Learning  # needs an optional library
    with cpu_threads(settings.threads), tracking(track, f"{label}-{env_id or ds.env_id}-seed-{seed}", folder) as told:
        policy = arguments.cloned(progress=progress)
        learning = Learning.start(arguments, policy, resume=resume)
        try:
            report = learning.run(label=label, folder=folder, progress=progress, track=told)
        finally:
            learning.learner.episodes.close()
    if folder is not None:
        report.save(folder)
    arguments.checkpoint.unlink(missing_ok=True)
    return report
