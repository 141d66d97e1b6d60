#!/usr/bin/env bash
# Starts the server and every client of this result on this machine, to try the project out.
set -eu
unset CLOUDDEPLOY_WORKSPACE NVFL_WORKSPACE # one workspace would be shared by all of them

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
for settings in "$here"/*/startup/fed_server.json "$here"/*/startup/fed_relay.json "$here"/*/startup/fed_client.json; do
    if [ -e "$settings" ]; then "$(dirname "$settings")/start.sh"; fi
done
