"""The command that compares."""

from json import dumps
from pathlib import Path

from minari_obd.cli.arguments import Names
from minari_obd.errors import SettingError

__all__ = ["compare"]


def compare(
    refs: Names,
    names: tuple[str, ...] = (),
    env: str | None = None,
    protocol: str | None = None,
    students: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    figure: Path | None = None,
    json: Path | None = None,
) -> None:
    """Compare distilled datasets, policies, teachers and saved reports of one dataset; each with the first.

    Args:
        refs: Two or more of what `evaluate` takes, or JSON files of `evaluate --out`.
        names: What to call them, instead of the above.
        env: Plain Gymnasium id; their own if not given.
        protocol: As for `evaluate`.
        students: As for `evaluate`.
        episodes: As for `evaluate`.
        seed: Seed of students and starts.
        figure: PNG file to write.
        json: JSON file to write, with the scores of every run in rliable's form.
    """
    from minari_obd.evaluation.comparing import compare as compare_subjects
    from minari_obd.storage.files import check_writable_file, write_text

    for path in (figure, json):
        if path is not None:
            check_writable_file(path)
    if figure is not None and figure.suffix != ".png":
        raise SettingError(f"'{figure}' does not end in .png; name a figure such as comparison.png.")
    found = compare_subjects(
        *refs,
        names=names or None,
        env=env,
        protocol=protocol,
        students=students,
        episodes=episodes,
        seed=seed,
        progress=True,
    )
    print(found.to_markdown())
    if figure is not None:
        print(f"Written: {found.save_figure(figure)}")
    if json is not None:
        write_text(json, dumps(found.to_json(), indent=2, allow_nan=False) + "\n")
        print(f"Written: {json}")
