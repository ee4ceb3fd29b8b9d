"""Run by a light install: what it can do, and what it says of what it cannot."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import numpy as np

import minari_obd
from minari_obd.settings.sections import DistillationRecipe

assert importlib.util.find_spec("d3rlpy") is None, "this is not a light install"
assert importlib.util.find_spec("sklearn") is None, "this is not a light install"

package = Path(minari_obd.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not what the wheel has installed"
assert (package / "py.typed").is_file()

pairs = minari_obd.load_dataset(sys.argv[1])
policy = minari_obd.clone(pairs, students=2)
assert policy(pairs.observations).shape == pairs.actions.shape
report = minari_obd.evaluate(policy, episodes=2)
shelved = minari_obd.load_dataset("shelf/halfcheetah-medium-sdw-256")
assert minari_obd.evaluate(minari_obd.clone(shelved), episodes=1).score.mean > 10
assert np.isfinite(report.scores).all()
assert len(minari_obd.distill("obd-bench/hopper/medium-v0", "random", size=8, progress=False)) == 8
collected = minari_obd.collect("light/bundled-v0", "Hopper-v5", "hopper-240000", steps=20, progress=False)
assert len(minari_obd.load_offline_data(collected)) == 20
quick = minari_obd.Recipe("x", size=8, distillation=DistillationRecipe("random", steps=2))  # bundled teacher
assert len(minari_obd.distill("obd-bench/hopper/medium-v0", "pbc", recipe=quick, progress=False)) == 8
try:
    minari_obd.distill("obd-bench/hopper/medium-v0", "sdw", size=8, progress=False)
    said = "nothing"
except ImportError as error:
    said = str(error)
assert "run `pip install 'minari-obd[distill]'`" in said, said
print(f"light install: {report!r} on gymnasium {importlib.metadata.version('gymnasium')}, without d3rlpy")
