#!/usr/bin/env bash
# The tests of this folder, on a node that is there for them alone.
set -euo pipefail
export LAB=${LAB:-/var/tmp/colonnade-kubernetes}
export PYTHON=${PYTHON:-python3}
here=$(realpath "$(dirname "$0")")

"$here/node.sh" down
trap '"$here/node.sh" down' EXIT
"$here/node.sh" up
cd "$here/../.."
KUBECONFIG=$LAB/run/node/kubeconfig PATH=$LAB/bin:$PATH KUBERNETES_NODE=10.79.0.1 \
    nsenter --net=/run/netns/colonnade-k8s "$PYTHON" -m pytest "$@" tests/k8s
