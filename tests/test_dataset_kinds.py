"""The trials behind docs/datasets.md: what a page says of a kind is what its trial gives."""

from pathlib import Path

import dataset_kinds
import pytest
from dataset_kinds import KINDS, row, try_kind

PAGE = Path(dataset_kinds.__file__).parents[1] / "docs" / "datasets.md"


def test_the_page_has_every_kind() -> None:
    page = PAGE.read_text()
    for kind in KINDS:
        assert f"| `{kind.namespace}` | `{kind.env_id}` |" in page, (
            "python benchmarks/dataset_kinds.py > docs/datasets.md"
        )


@pytest.mark.parametrize("namespace", ["mujoco/invertedpendulum", "atari/*"])
def test_a_trial_gives_the_row_that_is_there(namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))  # which a trial changes, and this puts back
    kind = next(each for each in KINDS if each.namespace == namespace)
    cells = try_kind(kind)
    assert cells[3] == ("refused" if namespace == "atari/*" else "yes")
    assert row(cells) in PAGE.read_text()
