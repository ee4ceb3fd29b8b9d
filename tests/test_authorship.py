"""What is stored names its own author or none, and takes little room."""

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from conftest import make_pairs

import minari_obd
from minari_obd.errors import SettingError
from minari_obd.sources.collecting import collect


def test_nobody_is_named_but_who_was_given() -> None:
    made = make_pairs().save("made")
    for file in made.rglob("*"):
        assert not file.is_file() or b"minari-obd authors" not in file.read_bytes()
    stored = make_pairs().to_minari("lab/pairs-v0").storage.metadata
    assert "author" not in stored
    assert "author_email" not in stored
    given: Any = {"author": "A. Person", "author_email": "person@example.org", "license": "cc-by-4.0"}
    collect("lab/mine-v0", "Pendulum-v1", "random", steps=30, progress=False, **given)
    stored = minari.load_dataset("lab/mine-v0").storage.metadata
    assert set(stored["author"]) == {"A. Person"}
    assert set(stored["author_email"]) == {"person@example.org"}
    with pytest.raises(SettingError, match="did you mean 'mit'"):
        make_pairs().push_to_hub("org/name", license="mitt")


def test_the_rendering_takes_a_quarter_of_what_minari_writes_and_reads_the_same() -> None:
    pairs = make_pairs(size=64)
    folder = pairs.save("made")
    assert (folder / "pairs-v0/data/main_data.hdf5").stat().st_size < 250_000
    stored = pairs.to_minari("lab/pairs-v0")
    np.testing.assert_array_equal(np.stack([each.actions[0] for each in stored.iterate_episodes()]), pairs.actions)
    again = minari_obd.DistilledDataset.from_minari("lab/pairs-v0")
    assert again.observations.tobytes() == pairs.observations.tobytes()
    assert Path("made/README.md").is_file()
