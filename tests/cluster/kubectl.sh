#!/usr/bin/env bash
# kubectl.sh ARGUMENTS...: kubectl, from where the API server is reachable; who ends this ends kubectl.
set -euo pipefail
. "$(dirname "$0")/env.sh"
exec nsenter --net="$NS/cp" kubectl "$@"
