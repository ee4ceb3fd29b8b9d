"""The command line, derived from the recipe's dataclasses: no option is written twice.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from minari_obd.cli.experiments import add_experiments
from minari_obd.errors import MinariObdError, SettingError
from minari_obd.settings.recipe import Recipe, load_recipe

__all__ = ["main"]

_Settings = Annotated[Recipe, tyro.conf.arg(name="")]


_Source = tyro.conf.Positional[str]


def _application(recipe: Any) -> tyro.extras.SubcommandApp:
    """Build the commands; ``recipe`` holds the defaults of ``run``, read from its TOML file."""
    app = tyro.extras.SubcommandApp()

    @app.command
    def distill(settings: _Settings, out: Path | None = None) -> None:
        """Distil an offline dataset into a few hundred pairs, and save them as a folder.

        Args:
            settings: the recipe.
            out: Folder to write; `out/<source>-<method>-<size>` if not given.
        """
        from minari_obd.distillation.distillation import run as run_prepared
        from minari_obd.distillation.preparation import prepare

        source = settings.source.strip("/").replace("/", "-")
        folder = out or Path("out") / f"{source}-{settings.method}-{settings.size}"
        dataset = run_prepared(prepare(settings, out=folder)).dataset
        print(f"{dataset!r}\nSaved in {folder}\nNext: minari-obd evaluate {folder}")

    @app.command
    def run(recipe_file: tyro.conf.Positional[Path], settings: _Settings = recipe, out: Path | None = None) -> None:
        """Run a recipe: distil, clone, evaluate, and compare with random pairs, the whole dataset and the teacher.

        Args:
            recipe_file: A TOML file such as recipes/quickstart.toml; the options below override it.
            settings: the recipe.
            out: Folder to write; `out/obd-<environment>-<method>-<size>` if not given.
        """
        from minari_obd.distillation.pipeline import run_recipe

        result = run_recipe(settings, out)
        print(
            f"\nThe distilled dataset is in {result.folder}, every return in {result.folder}.results.json\n"
            f"Next: minari-obd load {result.folder}\n"
            f"      minari-obd clone {result.folder} --out policy.safetensors\n"
            f'      python -c "import minari_obd; '
            f"print(minari_obd.load_dataset('{result.folder}').tensors()[0].shape)\""
        )

    @app.command(aliases=["show"])
    def load(ref: _Source, revision: str | None = None, recipe: bool = False) -> None:
        """Load a distilled dataset, check it, and show its card.

        Args:
            ref: Folder, Minari id, or Hugging Face repository.
            revision: Branch, tag or commit of the repository.
            recipe: Print the recipe that makes it again, as TOML, and nothing else.
        """
        from minari_obd.cli.listing import print_card
        from minari_obd.distilled.loading import load_dataset
        from minari_obd.settings.recipe import parse_recipe, recipe_toml

        dataset = load_dataset(ref, revision=revision)
        if recipe:
            print(recipe_toml(parse_recipe(dataset.provenance.recipe, f"the recipe in {dataset.origin}")), end="")
        else:
            print_card(dataset)

    @app.command
    def verify(ref: _Source, revision: str | None = None, source: str | None = None, evaluate: bool = False) -> None:
        """Check what a distilled dataset claims of itself; exit status 1 if anything is not so.

        Args:
            ref: Folder, Minari id, or Hugging Face repository.
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

    @app.command
    def push(
        ref: _Source,
        repo_id: tyro.conf.Positional[str],
        private: bool = False,
        revision: str | None = None,
        license: str | None = None,
    ) -> None:
        """Publish a distilled dataset, or a teacher, on the Hub with the token of `hf auth login` or HF_TOKEN.

        Args:
            ref: Folder or Minari id of a dataset; folder or file of a teacher.
            repo_id: `organisation/name`; made if it does not exist.
            private: Make a new repository private.
            revision: Branch to publish on, made if it does not exist.
            license: The Hub's id of the licence, such as `cc-by-4.0`; the set's own if not given.
        """
        from minari_obd.distilled.loading import load_dataset
        from minari_obd.teachers.loading import is_teacher, load_teacher

        teacher = is_teacher(ref)
        published = load_teacher(ref) if teacher else load_dataset(ref)
        address = published.push_to_hub(repo_id, private=private, revision=revision, license=license)
        next_step = f"distill SOURCE --teacher.algorithm {repo_id}" if teacher else f"verify {repo_id}"
        print(f"Published: {address}\nNext: minari-obd {next_step}")

    @app.command
    def clone(ref: _Source, out: Path = Path("policy.safetensors"), students: int = 1, seed: int = 0) -> None:
        """Clone a policy from a distilled dataset and save it.

        Args:
            ref: Folder, Minari id, or Hugging Face repository.
            out: File to write.
            students: Students to train; together they act by the mean of their actions.
            seed: Of their initialisations.
        """
        from minari_obd.cloning.cloning import clone as clone_policy
        from minari_obd.distilled.loading import load_dataset

        policy = clone_policy(load_dataset(ref), students=students, seed=seed, progress=True)
        print(f"Saved in {policy.save(out)}\nNext: minari-obd evaluate {out}")

    @app.command
    def evaluate(
        ref: _Source,
        env: str | None = None,
        protocol: str | None = None,
        students: int | None = None,
        episodes: int | None = None,
        seed: int = 0,
        save: bool = False,
    ) -> None:
        """Evaluate a distilled dataset, or a cloned policy, in its environment.

        Args:
            ref: Folder, Minari id, Hugging Face repository, or the file of a policy.
            env: Plain Gymnasium id; the dataset's own if not given.
            protocol: `paper`, `fast`, `ensemble`, `layers_2`, `residual`, `adamw`, ...; if not given, ten students
                x ten episodes, cloned as the dataset says.
            students: Students to clone (a policy has its own), in place of the protocol's number.
            episodes: Episodes of each, in place of the protocol's number.
            seed: Of students and starts.
            save: Keep the report in the dataset's folder, for its card.
        """
        from minari_obd.cloning.policy import load_policy
        from minari_obd.distilled.folder import check_target
        from minari_obd.distilled.loading import load_dataset
        from minari_obd.evaluation.evaluation import evaluate as evaluate_subject

        is_policy = ref.endswith(".safetensors") or Path(ref).is_file()
        if save and not Path(ref).is_dir():
            raise SettingError(f"A report is saved in a distilled dataset's folder, and '{ref}' is none.")
        if save:
            check_target(Path(ref))
        subject = load_policy(ref) if is_policy else load_dataset(ref)
        report = evaluate_subject(
            subject, env=env, protocol=protocol, students=students, episodes=episodes, seed=seed, progress=True
        )
        print(report)
        if save:
            subject.with_evaluation(report).save(ref)  # pyright: ignore[reportAttributeAccessIssue]  # a folder's

    add_experiments(app)

    @app.command(name="list")
    def list_() -> None:
        """List methods, teachers, densities, students, bundled policies, and the datasets that are at hand."""
        from minari_obd.cli.listing import print_listing

        print_listing()

    return app


def _recipe_of(arguments: Sequence[str]) -> Any:
    """Read the TOML file of ``run`` before its options are parsed, since it holds their defaults."""
    if list(arguments[:1]) == ["run"] and len(arguments) > 1 and arguments[1] not in ("-h", "--help"):
        if arguments[1].startswith("-"):
            raise SettingError("Name the recipe before its options: minari-obd run RECIPE.toml [options].")
        return load_recipe(arguments[1])
    return Recipe(source="as in PATH") if list(arguments[:1]) == ["run"] else tyro.MISSING  # for --help alone


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``minari-obd``; errors of this package are one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        recipe = _recipe_of(arguments)
        _application(recipe).cli(
            prog="minari-obd",
            description="Offline behaviour distillation: offline RL datasets as a few hundred (state, action) pairs.",
            args=arguments,
            config=(tyro.conf.PositionalRequiredArgs, tyro.conf.OmitSubcommandPrefixes),
        )
    except MinariObdError as error:
        print(" ".join([f"minari-obd: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nInterrupted. Given again, the command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
