"""Commands of the command line for experiments: diagnoses, fine-tuning, continual learning, benches, reports."""

from pathlib import Path
from typing import Annotated

import tyro

from minari_obd.errors import SettingError
from minari_obd.settings.finetuning import FinetuningRecipe

__all__ = ["add_experiments"]


def add_experiments(app: tyro.extras.SubcommandApp) -> None:
    """Add the commands to an application."""

    @app.command
    def diagnose(
        ref: tyro.conf.Positional[str],
        revision: str | None = None,
        source: str | None = None,
        teacher: Path | None = None,
        students: int = 5,
        episodes: int = 5,
        density: str = "knn",
        seed: int = 0,
        out: Path | None = None,
    ) -> None:
        """Say what is behind a distilled dataset's score: where students err, and where its pairs lie in the source.

        Args:
            ref: Folder, Minari id, or Hugging Face repository.
            revision: Branch, tag or commit of the repository.
            source: The offline dataset it was made from: Minari id or HDF5 file.
            teacher: Folder of a saved teacher; the recipe's own, if it was trained here before, if not given.
            students: Students to clone.
            episodes: Episodes of each, and of the teacher.
            density: Estimator that tells rare states from common ones: `knn`, `maf` or `gmm`.
            seed: Of students, starts and draws of rows.
            out: JSON file to write.
        """
        from rich.console import Console

        from minari_obd.distilled.loading import load_dataset
        from minari_obd.inspection.diagnosis import diagnose as diagnose_dataset

        dataset, counts = load_dataset(ref, revision=revision), {"students": students, "episodes": episodes}
        result = diagnose_dataset(
            dataset, source, teacher=teacher, **counts, density=density, seed=seed, out=out, progress=True
        )
        Console(highlight=False).print(result.table())

    @app.command
    def finetune(
        ref: tyro.conf.Positional[str],
        steps: int = 100_000,
        settings: Annotated[FinetuningRecipe, tyro.conf.arg(name="")] = FinetuningRecipe(),  # noqa: B008  # frozen
        env: str | None = None,
        seed: int = 0,
        bc_data: str | None = None,
        out: Path | None = None,
    ) -> None:
        """Clone a policy and let it go on learning in its environment, reminded of what it could.

        Args:
            ref: Folder, Minari id, or Hugging Face repository of a distilled dataset.
            steps: Environment steps.
            settings: the learner's.
            env: Plain Gymnasium id; the dataset's own if not given.
            seed: Of every random number.
            bc_data: Minari id of an offline dataset to be reminded of; needs --bc-states data (see --bc-target too).
            out: Folder for curve, report and policy; `out/finetuned-<ref>-<seed>` if not given.
        """
        from minari_obd.distilled.loading import load_dataset
        from minari_obd.finetuning.run import finetune as finetune_pairs

        folder = out or Path("out") / f"finetuned-{ref.strip('/').replace('/', '-')}-{seed}"
        report = finetune_pairs(
            load_dataset(ref), env, steps=steps, seed=seed, settings=settings, bc_data=bc_data, out=folder
        )
        print(f"{report!r}\nSaved in {folder}\nNext: minari-obd evaluate {folder / 'policy.safetensors'}")

    @app.command
    def finetune_grid(grid: tyro.conf.Positional[Path], out: Path | None = None, seeds: tuple[int, ...] = ()) -> None:
        """Fine-tune by every arm and seed of a grid; what has a report already is not run again.

        Args:
            grid: A TOML file such as recipes/finetune/hopper.toml.
            out: Folder for results; `out/finetune-<name of the grid>` if not given.
            seeds: Only these of the grid's seeds, so that several processes can share its folder.
        """
        from minari_obd.finetuning.grid import run_arms

        folder = out or Path("out") / f"finetune-{grid.stem}"
        print(f"{run_arms(grid, folder, seeds=seeds or None)}\nReports and curves.png are in {folder}")

    @app.command
    def continual(recipe_file: tyro.conf.Positional[Path], out: Path | None = None) -> None:
        """Learn tasks in sequence by several strategies; what has a report already is not run again.

        Args:
            recipe_file: A TOML file such as recipes/continual/halfcheetah-behaviours.toml.
            out: Folder for results; `out/continual-<name of the recipe>` if not given.
        """
        from minari_obd.continual.recipe import run_continual
        from minari_obd.continual.report import continual_table

        folder = out or Path("out") / f"continual-{recipe_file.stem}"
        print(f"{continual_table(run_continual(recipe_file, folder))}\nReports and policies are in {folder}")

    @app.command
    def bench(grid: tyro.conf.Positional[Path], out: Path | None = None, jobs: int = 1, ray: bool = False) -> None:
        """Run a grid of datasets, methods, sizes and seeds; what has a result already is not run again.

        Args:
            grid: A TOML file such as recipes/bench/quick.toml.
            out: Folder for results; `out/bench-<name of the grid>` if not given.
            jobs: Cells at a time, each in a process of its own. The results are the same for every number.
            ray: Spread the cells over the Ray cluster that runs already.
        """
        from minari_obd.experiments.bench import run_grid
        from minari_obd.experiments.table import BenchTable, write_results

        folder = out or Path("out") / f"bench-{grid.stem}"
        results = run_grid(grid, folder, jobs=jobs, ray=ray)
        write_results(results, folder)
        print(f"{BenchTable(results).to_markdown()}\nEvery return is in {folder / 'results.parquet'}")

    @app.command
    def report(results: tyro.conf.Positional[Path], command: str | None = None, diagnose: bool = False) -> None:
        """Make a page of a bench's results: tables, learning curves, where the pairs lie, what they look like.

        Args:
            results: The folder that `bench` wrote.
            command: The command that made them, to be shown.
            diagnose: Diagnose the first seed's distilled datasets too, some ten seconds each, and measure every seed's
                errors by density.
        """
        from minari_obd.experiments.report import write_report

        page = write_report(results, command=command, diagnose=diagnose)
        print(f"Written: {page}, with its figures in {results / 'figures'}")

    @app.command
    def collect(
        dataset_id: tyro.conf.Positional[str],
        env: str | None = None,
        policy: str | None = None,
        steps: int = 200_000,
        seed: int = 0,
    ) -> None:
        """Collect an offline dataset: an obd-bench one by its id, or any environment with any policy.

        Args:
            dataset_id: Minari id to make.
            env: Plain Gymnasium id.
            policy: `random`, a bundled policy, the path of a Stable-Baselines3 zip, or `module:function`.
            steps: Environment steps.
            seed: Of environments and actions.
        """
        from minari_obd.sources.behaviours import import_policy
        from minari_obd.sources.benchmark import BENCHMARK
        from minari_obd.sources.collecting import collect as collect_dataset

        if dataset_id in BENCHMARK and env is None and policy is None:
            BENCHMARK[dataset_id].build(steps=steps, seed=seed)
        elif env is None or policy is None:
            raise SettingError(f"'{dataset_id}' is not one of obd-bench's, so --env and --policy are needed.")
        else:
            collect_dataset(dataset_id, env, import_policy(policy), steps=steps, seed=seed)
        print(f"Next: minari-obd distill {dataset_id}")
