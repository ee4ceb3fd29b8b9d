"""The command line: its commands, and what their errors look like.

Options are derived from the signatures of the commands and from the recipe's dataclasses, so none is written twice.
Nothing heavy is imported before a command runs, so ``--help`` answers at once.
"""

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import tyro

from minari_obd.cli import datasets, experiments, policies
from minari_obd.errors import MinariObdError, SettingError
from minari_obd.settings.recipe import Recipe, load_recipe

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``minari-obd``; errors of this package are one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run(arguments)
    except MinariObdError as error:
        print(" ".join([f"minari-obd: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)


def _run(arguments: Sequence[str]) -> None:
    _application(_recipe_of(arguments)).cli(
        prog="minari-obd",
        description="Offline behaviour distillation: offline RL datasets as a few hundred (state, action) pairs.",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.OmitSubcommandPrefixes),
    )


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Print a warning as a line, without the place in the code that users cannot do anything about."""
    print(f"minari-obd: {message}", file=sys.stderr)


def _application(recipe: Any) -> tyro.extras.SubcommandApp:
    """Register the commands, in the order of ``--help``.

    Args:
        recipe: the defaults of ``run``, read from its TOML file.
    """
    app = tyro.extras.SubcommandApp()
    app.command(datasets.distill)
    app.command(name="run")(partial(datasets.run, settings=recipe))
    app.command(aliases=["show"])(datasets.load)
    app.command(datasets.verify)
    app.command(datasets.push)
    app.command(policies.clone)
    app.command(policies.evaluate)
    app.command(experiments.diagnose)
    app.command(policies.finetune)
    app.command(experiments.finetune_grid)
    app.command(experiments.continual)
    app.command(experiments.bench)
    app.command(experiments.report)
    app.command(datasets.collect)
    app.command(name="list")(datasets.list_choices)
    return app


def _recipe_of(arguments: Sequence[str]) -> Any:
    """Read the TOML file of ``run`` before its options are parsed, since it holds their defaults."""
    if list(arguments[:1]) == ["run"] and len(arguments) > 1 and arguments[1] not in ("-h", "--help"):
        if arguments[1].startswith("-"):
            raise SettingError("Name the recipe before its options: minari-obd run RECIPE.toml [options].")
        return load_recipe(arguments[1])
    return Recipe(source="as in PATH") if list(arguments[:1]) == ["run"] else tyro.MISSING  # for --help alone
