# The full install ($BIN) writes a distilled folder; the light one ($LIGHT) loads it, clones and evaluates.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
BIN=$(cd "$BIN" && pwd)
LIGHT=$(cd "$LIGHT" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset PYTHONPATH # the light install finds nothing of the repository
cd "$scratch"
export MINARI_DATASETS_PATH="$scratch/minari" MINARI_OBD_CACHE="$scratch/cache"
"$BIN/minari-obd" collect obd-bench/hopper/medium-v0 --steps 2000
"$BIN/minari-obd" distill obd-bench/hopper/medium-v0 --method random --size 64 --out "$scratch/made"
"$LIGHT/minari-obd" show "$scratch/made"
"$LIGHT/minari-obd" verify "$scratch/made"
"$LIGHT/minari-obd" evaluate "$scratch/made" --students 2 --episodes 2
"$LIGHT/python" "$here/check.py" "$scratch/made"
