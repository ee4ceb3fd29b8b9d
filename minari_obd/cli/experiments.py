"""Commands for experiments: diagnoses, grids of runs, their tables and pages."""

from pathlib import Path

from minari_obd.cli.arguments import File, Name

__all__ = ["bench", "continual", "demo", "diagnose", "finetune_grid", "report", "watch"]


def diagnose(
    ref: Name,
    revision: str | None = None,
    source: str | None = None,
    teacher: Path | None = None,
    students: int = 5,
    episodes: int = 5,
    density: str = "knn",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Explain a distilled dataset's score: where students err, and where its pairs lie in the source.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository.
        revision: Branch, tag or commit of the repository.
        source: The offline dataset it was made from: Minari id or HDF5 file.
        teacher: Folder of a saved teacher; if not given, the recipe's own if it was trained on this machine.
        students: Students to clone.
        episodes: Episodes of each, and of the teacher.
        density: Estimator that tells rare states from common ones: `knn`, `maf` or `gmm`.
        seed: Seed of students, starts and draws of rows.
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


def finetune_grid(grid: File, out: Path | None = None, seeds: tuple[int, ...] = ()) -> None:
    """Fine-tune by every arm and seed of a grid; runs that have a report are skipped.

    Args:
        grid: A TOML file such as recipes/finetune/hopper.toml.
        out: Folder for results; `out/finetune-<name of the grid>` if not given.
        seeds: Only these of the grid's seeds, so that several processes can share its folder.
    """
    from minari_obd.finetuning.grid import run_arms

    folder = out or Path("out") / f"finetune-{grid.stem}"
    print(f"{run_arms(grid, folder, seeds=seeds or None)}\nReports and curves.png are in {folder}")


def continual(recipe_file: File, out: Path | None = None) -> None:
    """Learn tasks in sequence by several strategies; runs that have a report are skipped.

    Args:
        recipe_file: A TOML file such as recipes/continual/halfcheetah-behaviours.toml.
        out: Folder for results; `out/continual-<name of the recipe>` if not given.
    """
    from minari_obd.continual.recipe import run_continual
    from minari_obd.continual.report import continual_table

    folder = out or Path("out") / f"continual-{recipe_file.stem}"
    print(f"{continual_table(run_continual(recipe_file, folder))}\nReports and policies are in {folder}")


def bench(grid: File, out: Path | None = None, jobs: int = 1, ray: bool = False) -> None:
    """Run a grid of datasets, methods, sizes and seeds; cells that have a result are skipped.

    Args:
        grid: A TOML file such as recipes/bench/quick.toml.
        out: Folder for results; `out/bench-<name of the grid>` if not given.
        jobs: Cells at a time, each in its own process. The results are the same for every number.
        ray: Spread the cells over a running Ray cluster.
    """
    from minari_obd.experiments.bench import run_grid
    from minari_obd.experiments.table import BenchTable, write_results

    folder = out or Path("out") / f"bench-{grid.stem}"
    results = run_grid(grid, folder, jobs=jobs, ray=ray)
    write_results(results, folder)
    print(f"{BenchTable(results).to_markdown()}\nEvery return is in {folder / 'results.parquet'}")


def demo(
    ref: Name,
    teacher: str | None = None,
    env: str | None = None,
    seed: int = 0,
    out: Path = Path("demo.html"),
) -> None:
    """Write a page that plays an episode of a student beside its teacher's. It is one file, for any browser.

    Args:
        ref: Folder, `shelf/NAME`, Minari id, or Hugging Face repository of a distilled dataset.
        teacher: Folder, file or repository of the teacher; if not given, the dataset's own if it is at hand.
        env: Plain Gymnasium id of a MuJoCo environment; the dataset's own if not given.
        seed: Seed of the student and of the start.
        out: HTML file to write.
    """
    from minari_obd.experiments.demo import write_demo

    print(f"Written: {write_demo(ref, out, teacher=teacher, env=env, seed=seed)}; open it in a browser")


def watch(folder: File, once: bool = False) -> None:
    """Show how far a bench is: cells done, running and failed, and the time left. Only its files are read.

    Args:
        folder: The folder that `bench` writes.
        once: Show it a single time, not until the bench ends.
    """
    from minari_obd.experiments.watching import watch_bench

    watch_bench(folder, once=once)


def report(results: File, command: str | None = None, diagnose: bool = False, demo: bool = False) -> None:
    """Make a page of a bench's results: tables, learning curves, where the pairs lie, what they look like.

    Args:
        results: The folder that `bench` wrote.
        command: The command that made them, shown on the page.
        diagnose: Also diagnose the first seed's distilled datasets, some ten seconds each, and measure every seed's
            errors by density.
        demo: Also write a page for each dataset that plays an episode of a student beside its teacher.
    """
    from minari_obd.experiments.report import write_report

    page = write_report(results, command=command, diagnose=diagnose, demo=demo)
    print(f"Written: {page}, with its figures in {results / 'figures'}")
