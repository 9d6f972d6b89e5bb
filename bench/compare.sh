#!/usr/bin/env bash
# Measures two commits in turns with this tree's benchmarks, and has benchstat
# compare them: what the machine's neighbours do, they do to both. WORKLOADS are
# those that run a cluster (fan-out, large fan-out, single fan-out, typical, idle,
# bytes); link, routes and commit run this tree's own code, whatever the commits.
#
#   bash bench/compare.sh BASE HEAD ROUNDS WORKLOADS
set -euo pipefail
cd "$(dirname "$0")/.."
base=$1 head=$2 rounds=$3 only=${4:-fan-out,single fan-out,typical}
go=${GO:-go}
benchstat=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$go" build -o "$tmp/bench" ./bench/run
for side in base head; do
	mkdir "$tmp/$side"
	git archive "${!side}" | tar -x -C "$tmp/$side"
	(cd "$tmp/$side" && "$go" build -o "$tmp/parley-$side" ./cmd/parley)
done
for round in $(seq "$rounds"); do
	for side in base head; do
		echo "round $round of $rounds: $side (${!side})" >&2
		# The floor runs, too: if it moved between the sides, the machine did.
		"$tmp/bench" bench report --only "$only" --runs 1 --parley "$tmp/parley-$side" --gobench "$tmp/one" >/dev/null
		cat "$tmp/one" >>"$tmp/$side.txt"
	done
done
"$go" run "$benchstat" "base=$tmp/base.txt" "head=$tmp/head.txt"
