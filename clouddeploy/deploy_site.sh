#!/usr/bin/env bash
# Deploys @site@ of this result alone: makes its machine where it needs one, brings the startup kit there, starts it.
# It may be repeated: what is there already stays. Where @site@ runs stands in @site@.deploy.yml beside this script.
#   deploy_@site@.sh [OPTION…]     asks before anything is made; options are those of `clouddeploy apply`, such as --yes
# See first, in this folder, what would be made and what it costs:
#   clouddeploy plan @file@
# Delete everything that was made:
#   clouddeploy destroy @file@
set -eu

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
if ! command -v clouddeploy >/dev/null; then
    echo "${0##*/}: the command clouddeploy is not installed here; install it with: pip install @package@" >&2
    exit 4
fi
exec clouddeploy apply @file@ "$@"
