#!/usr/bin/env bash
# What `make test-engines` does: every conformance suite against real engines, then
# the tests that need three nodes. Sets are made anew, one after the other, and are
# taken down again however this ends. Arguments go to go test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

engines=tools/engines/engines
log=$(mktemp)
part="nothing ran"
sets=()

finish() {
  local status=$? set
  trap - EXIT
  for set in "${sets[@]}"; do "$engines" down "$set" || status=1; done
  if (( status != 0 )); then
    printf '\n== FAILED: %s\n' "$part"
    # What failed comes last, where people look: tests by name, then what did not come up.
    grep -E '^ *--- FAIL|^FAIL|^panic:|WARNING: DATA RACE|[^ ]+\.go:[0-9]+:[0-9]+:|^engines: ' "$log" | tail -n 40 || true
  fi
  rm -f "$log"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

step() {
  part=$1
  shift
  printf '\n== %s\n' "$part"
  "$@" 2>&1 | tee "$log"
}

# against SET ARGUMENT…: go test with that set up.
against() {
  local set=$1 env
  shift
  sets+=("$set")
  step "wipe $set" "$engines" wipe "$set"
  step "up $set" "$engines" up "$set"
  env=$("$engines" env "$set")
  step "test against $set" in_env "$env" go test -tags engines -count=1 -timeout 30m "$@" ./cell/... ./test/badinput
  step "down $set" "$engines" down "$set"
}
in_env() {
  eval "$1"
  "${@:2}"
}

step "install engines" "$engines" install
against suite -skip ThreeNodes "$@"
against suite3 -run ThreeNodes "$@"
printf '\n== engine tests passed\n'
