"""Listing: what there is to choose from, for ``minari-obd list``."""

from rich.console import Console
from rich.table import Table

from minari_obd.benchmark import BENCHMARK, bundled_names
from minari_obd.minari_storage import local_dataset_ids
from minari_obd.registry import DENSITIES, OBJECTIVES, STUDENTS, TEACHERS

__all__ = ["print_listing"]


def print_listing(console: Console | None = None) -> None:
    """Print methods, teachers, densities, students, bundled policies and datasets."""
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
    table.add_row("bundled policies", ", ".join(bundled_names()))
    local = set(local_dataset_ids())
    for dataset_id in sorted(local | set(BENCHMARK)):
        state = "here" if dataset_id in local else "built on first use"
        table.add_row("dataset", f"{dataset_id} ({state})")
    (console or Console(highlight=False)).print(table)
