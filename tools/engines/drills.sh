#!/usr/bin/env bash
# What `make e2e-engines` does: the drills on two cells with engines of their own, the
# first with three nodes of Cassandra and Kafka. Sets are made anew and are taken down
# again however this ends. Arguments go to parley chaos run. Load should be far below
# what a machine with a dozen engines on it can do: drills look for pauses that faults
# make, not for those of a full machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

engines=tools/engines/engines
finish() {
  local status=$? set
  trap - EXIT
  for set in cell-1 cell-2; do "$engines" down "$set" >&2 || status=1; done
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

"$engines" install cell-1
for set in cell-1 cell-2; do "$engines" wipe "$set"; done
"$engines" up cell-1 --nodes 3
"$engines" up cell-2
"$engines" status
bin/parley-drill chaos run --engines "$engines" "$@"
