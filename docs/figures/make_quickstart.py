"""Draw the README's picture from what the quickstart leaves: python docs/figures/make_quickstart.py FOLDER."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

BLUE, GREY, ORANGE = "#2b6cb0", "#a0aec0", "#dd6b20"


def main(folder: Path) -> None:
    """Left: the held-out loss; right: scores with their intervals."""
    history = json.loads((folder / "obd.json").read_text())["provenance"]["history"]
    rows = json.loads(folder.with_name(f"{folder.name}.results.json").read_text())
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=[1, 1.3], constrained_layout=True)

    left.plot([row["step"] for row in history], [row["held_out"] for row in history], color=BLUE, marker="o", ms=3)
    left.set(xlabel="step", ylabel="held-out action error", title="Distilling 256 pairs", yscale="log")

    names = list(rows)
    labels = [f"{name}\n({row['pairs']:,} pairs)" if row["pairs"] else name for name, row in rows.items()]
    means = [rows[name]["score"]["mean"] for name in names]
    low = [rows[name]["score"]["mean"] - rows[name]["score"]["low"] for name in names]
    high = [rows[name]["score"]["high"] - rows[name]["score"]["mean"] for name in names]
    colours = [BLUE if "vgd" in name else ORANGE if "teacher" in name else GREY for name in names]
    bars = right.barh(labels, means, xerr=[low, high], color=colours, error_kw={"elinewidth": 1.2, "capsize": 3})
    right.bar_label(bars, [f"{mean:.1f}" for mean in means], padding=12)
    right.invert_yaxis()
    right.set(xlabel="normalised score, 95% interval", title="Students in HalfCheetah-v5")
    right.set_xlim(min(0, *means), 1.2 * max(means))
    figure.savefig(Path(__file__).with_name("quickstart.png"), dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
