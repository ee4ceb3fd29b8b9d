"""Put distilled datasets on the shelf, which comes with the package.

    python benchmarks/fill_shelf.py out/obd-halfcheetah-sdw-256 out/best=hopper-medium-256
    python benchmarks/fill_shelf.py    # prints the table of docs/shelf.md

Each argument is the folder of a distilled dataset that was evaluated, and the name that it gets. Without a name it is
called after source, method and size, such as ``halfcheetah-medium-sdw-256``. A set of that name is replaced.
"""

import argparse
import re
from pathlib import Path

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.distilled.folder import load_folder, save_folder
from minari_obd.distilled.loading import load_dataset
from minari_obd.distilled.shelf import SHELF, shelf_refs
from minari_obd.settings.recipe import parse_recipe
from minari_obd.support.tables import markdown_table

PAPERS = ("av_pbc", "sdw")


def name_of(dataset: DistilledDataset) -> str:
    """Name a set after its source, an obd-bench dataset, its method and its size.

    Raises:
        SystemExit: the source is another one.
    """
    source = re.fullmatch(r"obd-bench/(\w+)/([\w-]+)-v\d+", dataset.provenance.source)
    if source is None:
        raise SystemExit(f"The set was made from {dataset.provenance.source}; give it a name: FOLDER=NAME.")
    return f"{source[1]}-{source[2]}-{dataset.provenance.method}-{len(dataset)}"


def put(folder: Path, name: str | None = None, *, shelf: Path = SHELF) -> Path:
    """Copy what a reader needs of a distilled dataset's folder, and return the folder on the shelf.

    Raises:
        SystemExit: the set has no evaluation.
    """
    dataset = DistilledDataset.of(load_folder(folder))
    if dataset.evaluation is None:
        raise SystemExit(f"{folder} has no evaluation; run `minari-obd evaluate {folder} --save` first.")
    return save_folder(dataset, shelf / (name or name_of(dataset)), minari=False, picture=False)


def table() -> str:
    """Return what the shelf holds: for each dataset its sets, with score and 95% interval over episodes."""
    rows: dict[str, dict[str, str]] = {}
    for ref in shelf_refs():
        dataset = load_dataset(ref)
        recipe, report = parse_recipe(dataset.provenance.recipe, ref), dataset.evaluation
        assert report is not None
        score, method, source = report.score, f"`{recipe.method}`", recipe.source.removeprefix("obd-bench/")
        column = f"{recipe.size} pairs" + (f" by {method}" if recipe.method in PAPERS else "")
        by = "" if recipe.method in ("vgd", *PAPERS) else f" by {method}"
        shown = f"{score.mean:.1f} ({score.low:.1f} to {score.high:.1f}){by}"
        rows.setdefault(source.removesuffix("-v0"), {})[column] = shown
    columns = [f"256 pairs by `{each}`" for each in PAPERS]
    columns = ["256 pairs", "64 pairs", "16 pairs", *columns]
    return markdown_table(["data", *columns], [[n, *(r.get(c, "-") for c in columns)] for n, r in sorted(rows.items())])


def main() -> None:
    """Put what the command line names on the shelf, or print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="FOLDER[=NAME]")
    sets = parser.parse_args().sets
    if not sets:
        print(table())
    for each in sets:
        folder, _, name = each.partition("=")
        written = put(Path(folder), name or None)
        size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
        print(f"shelf/{written.name}: {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
