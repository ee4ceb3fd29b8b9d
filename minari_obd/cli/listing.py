"""Listing: what there is to choose from, and what a distilled dataset is, for the terminal."""

import re

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from minari_obd.distilled.card import dataset_card
from minari_obd.distilled.contents import Contents
from minari_obd.distilled.shelf import load_from_shelf, shelf_refs
from minari_obd.registry import DENSITIES, OBJECTIVES, STUDENTS, TEACHERS
from minari_obd.sources.behaviours import bundled_names
from minari_obd.sources.benchmark import BENCHMARK
from minari_obd.storage.minari_datasets import local_dataset_ids
from minari_obd.teachers.bundled import bundled_teacher_details

__all__ = ["print_card", "print_listing"]


def print_listing(console: Console | None = None) -> None:
    """Print methods, teachers, densities, students, bundled teachers, the shelf, bundled policies and datasets."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for title, registry in (
        ("methods", OBJECTIVES),
        ("teachers", TEACHERS),
        ("densities", DENSITIES),
        ("students", STUDENTS),
    ):
        table.add_row(title, ", ".join(registry.names()))
    for dataset_id, details in bundled_teacher_details().items():
        score = f"score {details['score']:.1f}" if "score" in details else "no score"
        table.add_row("bundled teacher", f"{dataset_id} ({details['algorithm']}, {score})")
    for ref in shelf_refs():
        pairs = load_from_shelf(ref)
        score = "no score" if pairs.evaluation is None else f"score {pairs.evaluation.score.mean:.1f}"
        table.add_row("shelf", f"{ref} ({len(pairs)} pairs, {score})")
    table.add_row("bundled policies", ", ".join(bundled_names()))
    local = set(local_dataset_ids())
    for dataset_id in sorted(local | set(BENCHMARK)):
        state = "here" if dataset_id in local else "built on first use"
        table.add_row("dataset", f"{dataset_id} ({state})")
    (console or Console(highlight=False)).print(table)


def print_card(dataset: Contents, console: Console | None = None) -> None:
    """Print a dataset's card, rebuilt from its checked metadata, and where the dataset was loaded from."""
    origin = dataset.origin or "ORG/pairs"
    published = re.fullmatch(r"([^/@]+/[^/@]+)@[0-9a-f]{40}", origin)
    repo_id = published[1] if published else f"ORG/{origin.rstrip('/').rpartition('/')[2]}"
    card = dataset_card(dataset, repo_id).split("---\n", 2)[2]
    (console or Console()).print(Markdown(card), f"\nLoaded from {origin}", markup=False)
