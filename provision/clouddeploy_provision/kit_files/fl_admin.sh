#!/usr/bin/env bash
# Opens the admin console of this project with this kit's identity.
set -eu

kit="$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)")"
if ! command -v clouddeploy >/dev/null; then
    echo "fl_admin.sh: the command clouddeploy is not installed here; install it with: pip install clouddeploy" >&2
    exit 4
fi
exec clouddeploy console --startup-kit "$kit" "$@"
