"""The command line: its commands, and what their errors look like.

Options are derived from the signatures of the commands and from the recipe's dataclasses, so none is written twice.
Nothing heavy is imported before a command runs, so ``--help`` answers at once.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import tyro

from minari_obd.cli import comparisons, datasets, experiments, policies
from minari_obd.errors import MinariObdError, SettingError
from minari_obd.settings.recipe import Recipe, load_recipe
from minari_obd.support.modules import import_named
from minari_obd.version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``minari-obd``; errors of this package are one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names and cards hold what an ASCII terminal has not
    try:
        if arguments == ["--version"]:
            print(__version__)
            return
        modules, arguments = _modules_of(arguments)
        import_named(modules)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run(arguments)
    except MinariObdError as error:
        print(" ".join([f"minari-obd: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it goes on from its checkpoint, if any.", file=sys.stderr)
        sys.exit(130)


def _run(arguments: Sequence[str]) -> None:
    """Parse the arguments, then run the command. A setting that makes no sense is an error of this package."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command = _parse(arguments)
    except SystemExit as end:
        problem: BaseException | None = end
        while problem is not None and not isinstance(problem, MinariObdError):
            problem = problem.__context__
        if problem is not None:
            raise problem from None
        print(said.getvalue(), file=sys.stderr, end="")
        raise
    command()


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    return _application(_recipe_of(arguments)).cli(
        prog="minari-obd",
        description=(
            "Offline behaviour distillation: offline RL datasets as a few hundred (state, action) pairs. With every "
            "command, --import MODULE (also repeated) first imports a package that registers environments. --version "
            "prints the version."
        ),
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.OmitSubcommandPrefixes),
    )


def _modules_of(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take every ``--import MODULE`` out of the arguments, wherever it stands."""
    modules, others, rest = [], [], iter(arguments)
    for argument in rest:
        option, _, name = argument.partition("=")
        if option != "--import":
            others.append(argument)
            continue
        name = name or next(rest, "")
        if not name or name.startswith("-"):
            raise SettingError("--import needs the name of a module, such as --import gymnasium_robotics.")
        modules.append(name)
    return modules, others


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Print a warning as a line, without the place in the code that users cannot do anything about."""
    print(f"minari-obd: {message}", file=sys.stderr)


def _application(recipe: Any) -> tyro.extras.SubcommandApp:
    """Register the commands, in the order of ``--help``.

    Args:
        recipe: the defaults of ``run``, read from its TOML file.
    """

    def later(command: Callable[..., None]) -> Callable[..., Any]:
        """Return a command that is parsed and not run."""
        return wraps(command)(lambda *given, **named: partial(command, *given, **named))

    app = tyro.extras.SubcommandApp()
    app.command(later(datasets.distill))
    app.command(name="run")(partial(later(datasets.run), settings=recipe))
    app.command(aliases=["show"])(later(datasets.load))
    app.command(later(datasets.verify))
    app.command(later(datasets.push))
    app.command(later(policies.clone))
    app.command(later(policies.export))
    app.command(later(policies.evaluate))
    app.command(later(comparisons.compare))
    app.command(later(experiments.diagnose))
    app.command(later(policies.finetune))
    app.command(later(experiments.finetune_grid))
    app.command(later(experiments.continual))
    app.command(later(experiments.bench))
    app.command(later(experiments.watch))
    app.command(later(experiments.report))
    app.command(later(experiments.demo))
    app.command(later(datasets.collect))
    app.command(name="import")(later(datasets.import_dataset))
    app.command(name="list")(later(datasets.list_choices))
    return app


def _recipe_of(arguments: Sequence[str]) -> Any:
    """Read the TOML file of ``run`` before its options are parsed, since it holds their defaults."""
    if list(arguments[:1]) == ["run"] and len(arguments) > 1 and arguments[1] not in ("-h", "--help"):
        if arguments[1].startswith("-"):
            raise SettingError("Name the recipe before its options: minari-obd run RECIPE.toml [options].")
        return load_recipe(arguments[1])
    return Recipe(source="as in PATH") if list(arguments[:1]) == ["run"] else tyro.MISSING  # for --help alone
