#!/usr/bin/env bash
# Creates a machine in the cloud and starts this kit there; the same as start.sh --cloud @cloud@.
set -eu

exec "$(dirname "${BASH_SOURCE[0]}")/start.sh" --cloud @cloud@ "$@"
