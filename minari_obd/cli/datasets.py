"""Commands that make, show, check and publish datasets."""

import sys
from json import dumps
from pathlib import Path
from shlex import quote
from typing import Any

from minari_obd.cli.arguments import File, Library, Name, Optional, Settings
from minari_obd.errors import SettingError
from minari_obd.support.tracking import TrackerName

__all__ = ["collect", "distill", "import_dataset", "list_choices", "load", "push", "run", "verify"]


def distill(
    settings: Settings, out: Path | None = None, overwrite: bool = False, track: TrackerName | None = None
) -> None:
    """Distil an offline dataset into a few hundred pairs, and save them as a folder.

    Args:
        settings: the recipe.
        out: Folder to write; `out/<source>-<method>-<size>-seed-<seed>` if not given.
        overwrite: Replace the result of another run there.
        track: Library that shows losses while the run goes on.
    """
    from minari_obd.distillation.distillation import run as run_prepared
    from minari_obd.distillation.preparation import prepare

    folder = out or Path("out") / settings.name
    dataset = run_prepared(prepare(settings, out=folder, overwrite=overwrite, track=track)).dataset
    print(f"{dataset!r}\nSaved in {folder}\nNext: minari-obd evaluate {quote(str(folder))}")


def run(
    recipe_file: File,
    settings: Settings,
    out: Path | None = None,
    overwrite: bool = False,
    track: TrackerName | None = None,
) -> None:
    """Run a recipe: distil, clone, evaluate, and compare with random pairs, the whole dataset and the teacher.

    Args:
        recipe_file: A TOML file such as recipes/quickstart.toml; the options below override it.
        settings: the recipe.
        out: Folder to write; `out/<source>-<method>-<size>-seed-<seed>` if not given.
        overwrite: Replace the result of another run there.
        track: Library that shows losses while the run goes on.
    """
    from minari_obd.distillation.pipeline import run_recipe

    result = run_recipe(settings, out, overwrite=overwrite, track=track)
    folder = quote(str(result.folder))
    named = dumps(str(result.folder), ensure_ascii=False)  # in double quotes, as the shell takes single ones
    code = f"import minari_obd; print(minari_obd.load_dataset({named}).tensors()[0].shape)"
    print(
        f"\nThe distilled dataset is in {result.folder}, every return in {result.folder}.results.json\n"
        f"Next: minari-obd load {folder}\n"
        f"      minari-obd clone {folder} --out policy.safetensors\n"
        f"      python -c {quote(code)}"
    )


def load(
    ref: Name, revision: str | None = None, recipe: bool = False, first: int | None = None, out: Path | None = None
) -> None:
    """Load a distilled dataset, check it, and show its card.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository.
        revision: Branch, tag or commit of the repository.
        recipe: Print only the recipe that makes the dataset again, as TOML.
        first: Only so many pairs, the first, of a set that was distilled with `--distillation.nested`.
        out: Folder to save it in.
    """
    from minari_obd.cli.listing import print_card
    from minari_obd.distilled.loading import load_dataset
    from minari_obd.settings.recipe import recipe_toml, recorded_recipe

    dataset = load_dataset(ref, revision=revision)
    if first is not None:
        dataset = dataset.first(first)
    if out is not None:
        dataset.save(out)
    if recipe:
        print(recipe_toml(recorded_recipe(dataset.provenance.recipe, f"the recipe in {dataset.origin}")), end="")
    else:
        print_card(dataset)


def verify(ref: Name, revision: str | None = None, source: str | None = None, evaluate: bool = False) -> None:
    """Check what a distilled dataset claims about itself; exit status 1 if a claim is wrong.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository.
        revision: Branch, tag or commit of the repository.
        source: The offline dataset it was made from: Minari id or HDF5 file.
        evaluate: Repeat its evaluation, which takes minutes.
    """
    from rich.console import Console

    from minari_obd.inspection.verification import verify as verify_dataset

    result = verify_dataset(ref, revision=revision, source=source, evaluate=evaluate, progress=True)
    Console(highlight=False).print(result.table())
    if not result.passed:
        sys.exit(1)


def push(
    ref: Optional = None,
    repo_id: Optional = None,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    shelf: str | None = None,
) -> None:
    """Publish a distilled dataset, a policy or a teacher on the Hub with the token of `hf auth login` or HF_TOKEN.

    Args:
        ref: Folder, `shelf/NAME` or Minari id of a dataset; folder or file of a policy or a teacher.
        repo_id: `organisation/name`; made if it does not exist.
        private: Make a new repository private.
        revision: Branch to publish on, made if it does not exist.
        license: The Hub's id of the licence, such as `cc-by-4.0`; the dataset's own if not given.
        shelf: Organisation that gets every set of the shelf, as `organisation/obd-NAME`; instead of REF and REPO-ID.
    """
    from minari_obd.cloning.policy import Policy
    from minari_obd.distilled.shelf import push_shelf
    from minari_obd.evaluation.loading import load_subject
    from minari_obd.teachers.frozen import FrozenTeacher

    given: Any = {"private": private, "revision": revision, "license": license}
    if shelf is not None and ref is None:
        for address in push_shelf(shelf, **given):
            print(f"Published: {address}")
    elif shelf is not None or ref is None or repo_id is None:
        raise SettingError("Name what to publish and where: push REF organisation/name, or push --shelf organisation.")
    else:
        published = load_subject(ref)
        address = published.push_to_hub(repo_id, **given)
        branch = "" if revision is None else f" --revision {quote(revision)}"
        next_step = (
            f"evaluate {repo_id}{branch}"
            if isinstance(published, Policy)
            else f"distill SOURCE --teacher.algorithm {repo_id if revision is None else quote(f'{repo_id}@{revision}')}"
            if isinstance(published, FrozenTeacher)
            else f"verify {repo_id}{branch}"
        )
        print(f"Published: {address}\nNext: minari-obd {next_step}")


def collect(
    dataset_id: Name,
    env: str | None = None,
    policy: str | None = None,
    steps: int = 200_000,
    seed: int = 0,
    license: str | None = None,
    author: str | None = None,
    author_email: str | None = None,
) -> None:
    """Collect an offline dataset: an obd-bench one by its id, or any environment with any policy.

    Args:
        dataset_id: Minari id to make.
        env: Plain Gymnasium id.
        policy: `random`, a bundled policy, the path of a Stable-Baselines3 zip, or `module:function`.
        steps: Environment steps.
        seed: Seed of environments and actions.
        license: The Hub's id of the data's licence, such as `cc-by-4.0`.
        author: Who answers for the data; left out if not given.
        author_email: How to reach them; left out if not given.
    """
    from minari_obd.sources.behaviours import import_policy
    from minari_obd.sources.benchmark import BENCHMARK
    from minari_obd.sources.collecting import collect as collect_dataset

    if dataset_id in BENCHMARK and env is None and policy is None:
        BENCHMARK[dataset_id].build(steps=steps, seed=seed)
    elif env is None or policy is None:
        raise SettingError(f"'{dataset_id}' is not one of obd-bench's, so --env and --policy are needed.")
    else:
        collect_dataset(
            dataset_id,
            env,
            import_policy(policy),
            steps=steps,
            seed=seed,
            license=license,
            author=author,
            author_email=author_email,
        )
    print(f"Next: minari-obd distill {dataset_id}")


def import_dataset(
    library: Library, ref: Name, id: str | None = None, env: str | None = None, license: str | None = None
) -> None:
    """Make a Minari dataset of another library's offline dataset.

    Args:
        library: Whose it is: `ogbench`.
        ref: An npz file, or the name of a dataset that OGBench has downloaded.
        id: Minari id to make; `ogbench/NAME-vN` if not given.
        env: Plain Gymnasium id to evaluate in.
        license: The Hub's id of the licence, such as `cc-by-4.0`.
    """
    from minari_obd.sources.ogbench import import_ogbench
    from minari_obd.storage.minari_datasets import open_local_dataset

    made = import_ogbench(ref, id, env=env, license=license)
    stored = open_local_dataset(made)
    print(f"Made {made}: {int(stored.total_steps):,} steps in {int(stored.total_episodes):,} episodes")
    if stored.storage.metadata["has_rewards"]:
        print(f"Next: minari-obd distill {made}")
    else:
        print("It has no rewards, so only methods without a teacher's values mean anything.")
        print(f"Next: minari-obd distill {made} --method dbc")


def list_choices() -> None:
    """List methods, teachers, densities, students, what is bundled, and the available datasets."""
    from minari_obd.cli.listing import print_listing

    print_listing()
