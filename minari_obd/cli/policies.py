"""Commands that make and judge policies."""

import json
from pathlib import Path
from shlex import quote
from typing import Any

from minari_obd.cli.arguments import File, FinetuningSettings, Name
from minari_obd.errors import FormatError, SettingError
from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.support.tracking import TrackerName

__all__ = ["clone", "evaluate", "export", "finetune"]


def clone(
    ref: Name,
    out: Path = Path("policy.safetensors"),
    revision: str | None = None,
    students: int = 1,
    seed: int = 0,
    network: bool = False,
    overwrite: bool = False,
) -> None:
    """Clone a policy from a distilled dataset and save it: as one file, as a folder to publish, or as ONNX.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository.
        out: File to write, .safetensors or .onnx; or a folder, if the name has no ending.
        revision: Branch, tag or commit of the repository.
        students: Students to train; together they act by the mean of their actions.
        seed: Seed of their initialisations.
        network: Of pairs for infinitely wide students: train networks of three layers to act as their clone does.
        overwrite: Replace what is there.
    """
    from minari_obd.cloning.cloning import clone as clone_policy
    from minari_obd.cloning.imitation import imitate
    from minari_obd.distilled.loading import load_dataset

    _check_out(out, overwrite=overwrite)
    pairs = load_dataset(ref, revision=revision)
    if network and pairs.protocol.is_solved:
        policy = imitate(clone_policy(pairs), students=students, seed=seed, progress=True)
    else:  # whose clones are networks, or are to be infinitely wide
        policy = clone_policy(pairs, students=students, seed=seed, progress=True)
    _write(policy, out)


def export(ref: Name, out: File, revision: str | None = None, overwrite: bool = False) -> None:
    """Write a policy in another form: as one file, as a folder to publish, or as ONNX.

    Args:
        ref: File, folder, or Hugging Face repository of a policy.
        out: File to write, .onnx or .safetensors; or a folder, if the name has no ending.
        revision: Branch, tag or commit of the repository.
        overwrite: Replace what is there.
    """
    from minari_obd.cloning.loading import load_policy

    _check_out(out, overwrite=overwrite)
    _write(load_policy(ref, revision=revision), out)


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse what cannot be written, before any work."""
    from minari_obd.cloning.folder import check_target
    from minari_obd.cloning.policy import KEY
    from minari_obd.storage.tensors import check_replaceable_file
    from minari_obd.support.libraries import check_installed

    if out.suffix not in ("", ".onnx", ".safetensors"):
        raise SettingError(f"'{out}' is none of .safetensors, .onnx and the name of a folder; choose one of these.")
    if out.exists() and not overwrite:
        kind = "folder" if out.is_dir() else "file"
        raise SettingError(
            f"There is a {kind} '{out}' already; name another with --out, or replace it with --overwrite."
        )
    if out.suffix == ".onnx":
        check_installed("onnxscript", "onnx")
    elif out.suffix:
        check_replaceable_file(out, KEY, "policy")
    else:
        check_target(out)


def _write(policy: Any, out: Path) -> None:
    writers = {".onnx": policy.to_onnx, "": policy.save_pretrained}
    saved = writers.get(out.suffix, policy.save)(out)
    name = quote(str(out))
    print(f"Saved in {saved}" + ("" if out.suffix == ".onnx" else f"\nNext: minari-obd evaluate {name}"))
    if out.suffix != ".onnx":
        print(f"      minari-obd push {name} organisation/name")


def evaluate(
    ref: Name,
    env: str | None = None,
    revision: str | None = None,
    protocol: str | None = None,
    students: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    save: bool = False,
    out: Path | None = None,
    video: Path | None = None,
) -> None:
    """Evaluate a distilled dataset, a cloned policy or a teacher in its environment.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, Hugging Face repository, or the file of a policy or a teacher.
        env: Plain Gymnasium id; the dataset's own if not given.
        revision: Branch, tag or commit of the repository.
        protocol: `paper`, `fast`, `ensemble`, `layers_2`, `residual`, `adamw`, ...; if not given, ten students
            x ten episodes, cloned as the dataset says.
        students: Students to clone (a policy has its own), instead of the protocol's number.
        episodes: Episodes of each, instead of the protocol's number.
        seed: Seed of students and starts.
        save: Keep the report with the set or policy, for its card.
        out: JSON file to write, with every return; `minari-obd compare` reads it.
        video: .mp4 or .gif file to write, with the first episode.
    """
    from minari_obd.cloning.folder import check_target as check_policy_target
    from minari_obd.cloning.policy import Policy
    from minari_obd.distilled.dataset import DistilledDataset
    from minari_obd.distilled.folder import check_target
    from minari_obd.evaluation.evaluation import evaluate as evaluate_subject
    from minari_obd.evaluation.loading import load_subject
    from minari_obd.storage.files import check_writable_file, write_text

    subject, path = load_subject(ref, revision=revision), Path(ref)
    is_kept = path.is_dir() if isinstance(subject, DistilledDataset) else path.exists() and isinstance(subject, Policy)
    if save and not is_kept:
        raise SettingError(
            f"'{ref}' is not the folder of a distilled dataset or a policy, so the report cannot be saved there; leave "
            "out --save, or write it with --out."
        )
    if save and path.is_dir():
        (check_target if isinstance(subject, DistilledDataset) else check_policy_target)(path)
    if students is not None and not isinstance(subject, DistilledDataset):
        raise SettingError(f"'{ref}' is no set of pairs to clone students from; leave out --students.")
    if out is not None:
        check_writable_file(out)
        if out.is_file() and out.stat().st_size and not _is_report(out):
            raise SettingError(f"'{out}' is there already, and no report of an evaluation; name another file.")
    counts = {"students": students, "episodes": episodes}
    report = evaluate_subject(subject, env=env, protocol=protocol, **counts, seed=seed, video=video, progress=True)
    print(report)
    if save and isinstance(subject, DistilledDataset):
        subject.with_evaluation(report).save(ref)
    elif save and isinstance(subject, Policy):
        judged = subject.with_evaluation(report)
        (judged.save_pretrained if path.is_dir() else judged.save)(path)
    if out is not None:
        write_text(out, json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        print(f"Written: {out}")
    if video is not None:
        print(f"Filmed: {video}")


def _is_report(path: Path) -> bool:
    from minari_obd.evaluation.loading import load_report

    try:
        load_report(path)
    except FormatError:
        return False
    return True


def finetune(
    ref: Name,
    steps: int = 100_000,
    settings: FinetuningSettings = FinetuningRecipe(),  # noqa: B008  # frozen, so that calls can share it
    env: str | None = None,
    seed: int = 0,
    revision: str | None = None,
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
        revision: Branch, tag or commit of the repository.
        bc_data: Minari id of an offline dataset to be reminded of; needs --bc-states data (see --bc-target too).
        out: Folder for curve, report and policy; `out/finetuned-<ref>-<seed>` if not given.
        track: Library that shows returns while the run goes on.
    """
    from minari_obd.distilled.loading import load_dataset
    from minari_obd.finetuning.run import finetune as finetune_pairs

    folder = out or Path("out") / f"finetuned-{ref.strip('/').replace('/', '-')}-{seed}"
    dataset = load_dataset(ref, revision=revision)
    report = finetune_pairs(
        dataset, env, steps=steps, seed=seed, settings=settings, bc_data=bc_data, out=folder, track=track
    )
    print(f"{report!r}\nSaved in {folder}\nNext: minari-obd evaluate {quote(str(folder / 'policy.safetensors'))}")
