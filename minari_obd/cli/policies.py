"""Commands that make and judge policies."""

from pathlib import Path
from shlex import quote

from minari_obd.cli.arguments import FinetuningSettings, Name
from minari_obd.errors import SettingError
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.support.tracking import TrackerName

__all__ = ["clone", "evaluate", "finetune"]


def clone(
    ref: Name,
    out: Path = Path("policy.safetensors"),
    students: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Clone a policy from a distilled dataset and save it.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository.
        out: File to write.
        students: Students to train; together they act by the mean of their actions.
        seed: Seed of their initialisations.
        overwrite: Replace a file that is there.
    """
    from minari_obd.cloning.cloning import clone as clone_policy
    from minari_obd.distilled.loading import load_dataset

    if out.is_file() and not overwrite:
        raise SettingError(f"There is a file '{out}' already; name another with --out, or replace it with --overwrite.")
    policy = clone_policy(load_dataset(ref), students=students, seed=seed, progress=True)
    print(f"Saved in {policy.save(out)}\nNext: minari-obd evaluate {quote(str(out))}")


def evaluate(
    ref: Name,
    env: str | None = None,
    protocol: str | None = None,
    students: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    save: bool = False,
) -> None:
    """Evaluate a distilled dataset, or a cloned policy, in its environment.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, Hugging Face repository, or the file of a policy.
        env: Plain Gymnasium id; the dataset's own if not given.
        protocol: `paper`, `fast`, `ensemble`, `layers_2`, `residual`, `adamw`, ...; if not given, ten students
            x ten episodes, cloned as the dataset says.
        students: Students to clone (a policy has its own), instead of the protocol's number.
        episodes: Episodes of each, instead of the protocol's number.
        seed: Seed of students and starts.
        save: Keep the report in the dataset's folder, for its card.
    """
    from minari_obd.cloning.policy import load_policy
    from minari_obd.distilled.folder import check_target
    from minari_obd.distilled.loading import load_dataset
    from minari_obd.evaluation.evaluation import evaluate as evaluate_subject

    is_policy = ref.endswith(".safetensors") or Path(ref).is_file()
    if save and not Path(ref).is_dir():
        raise SettingError(
            f"'{ref}' is not the folder of a distilled dataset, so the report cannot be saved there; leave out --save."
        )
    if save:
        check_target(Path(ref))
    subject = load_policy(ref) if is_policy else load_dataset(ref)
    report = evaluate_subject(
        subject, env=env, protocol=protocol, students=students, episodes=episodes, seed=seed, progress=True
    )
    print(report)
    if save:
        subject.with_evaluation(report).save(ref)  # pyright: ignore[reportAttributeAccessIssue]  # a folder's


def finetune(
    ref: Name,
    steps: int = 100_000,
    settings: FinetuningSettings = FinetuningRecipe(),  # noqa: B008  # frozen
    env: str | None = None,
    seed: int = 0,
    bc_data: str | None = None,
    out: Path | None = None,
    track: TrackerName | None = None,
) -> None:
    """Clone a policy and continue training it with RL in its environment, regularised towards the clone.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository of a distilled dataset.
        steps: Environment steps.
        settings: the learner's.
        env: Plain Gymnasium id; the dataset's own if not given.
        seed: Random seed.
        bc_data: Minari id of an offline dataset to be reminded of; needs --bc-states data (see --bc-target too).
        out: Folder for curve, report and policy; `out/finetuned-<ref>-<seed>` if not given.
        track: Library that shows returns while the run goes on.
    """
    from minari_obd.distilled.loading import load_dataset
    from minari_obd.finetuning.run import finetune as finetune_pairs

    folder = out or Path("out") / f"finetuned-{ref.strip('/').replace('/', '-')}-{seed}"
    dataset = load_dataset(ref)
    report = finetune_pairs(
        dataset, env, steps=steps, seed=seed, settings=settings, bc_data=bc_data, out=folder, track=track
    )
    print(f"{report!r}\nSaved in {folder}\nNext: minari-obd evaluate {quote(str(folder / 'policy.safetensors'))}")
