"""Arguments: the types that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from minari_obd.settings.finetuning import FinetuningRecipe
from minari_obd.settings.recipe import Recipe

__all__ = ["File", "FinetuningSettings", "Library", "Name", "Names", "Optional", "Settings"]

Name = tyro.conf.Positional[str]
"""An argument without a dash: what a dataset, a policy or a repository is called."""

Names = tyro.conf.Positional[tuple[str, ...]]
"""Several of them."""

Optional = tyro.conf.Positional[str | None]
"""A name that may be left out."""

File = tyro.conf.Positional[Path]
"""An argument without a dash: a file or a folder."""

Library = tyro.conf.Positional[Literal["ogbench"]]
"""Whose datasets can be imported."""

Settings = Annotated[Recipe, tyro.conf.arg(name="")]
"""A recipe, each of whose fields is an option."""

FinetuningSettings = Annotated[FinetuningRecipe, tyro.conf.arg(name="")]
"""The same for the settings of fine-tuning."""
