#!/usr/bin/env bash
# kubectl.sh ARGUMENTS...: kubectl, from where the API server is reachable.
set -euo pipefail
. "$(dirname "$0")/env.sh"
kc "$@"
