#!/usr/bin/env bash
# A whole Kubernetes node in a network namespace of its own, with Dask's operator: `node.sh up`,
# `node.sh down`. From what build.sh and image.sh have left in $LAB; as root.
set -euo pipefail
LAB=${LAB:-/var/tmp/colonnade-kubernetes}
PYTHON=${PYTHON:-python3}
here=$(realpath "$(dirname "$0")")
space=colonnade-k8s
run=$LAB/run/node
address=10.79.0.1
services=10.99.0

# What is started here is in this namespace, where `down` finds it
start() {
    local name=$1
    shift
    setsid nsenter --net=/run/netns/$space "$@" >"$run/$name.log" 2>&1 &
}

until_true() {
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "not within a minute: $*" >&2
    return 1
}

containers() { ctr --address "$run/containerd.sock" --namespace k8s.io "$@"; }
kubectl() {
    nsenter --net=/run/netns/$space "$LAB/bin/kubectl" --kubeconfig "$run/kubeconfig" "$@"
}

network() {
    ip netns add $space
    ip -n $space link set lo up
    ip -n $space link add d0 type bridge
    ip -n $space addr add $address/24 dev d0
    ip -n $space link set d0 up
    ip -n $space route add default dev d0
    ip netns exec $space sysctl -qw net.ipv4.ip_forward=1
}

control() {
    start etcd etcd --data-dir "$run/etcd" \
        --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
        --listen-peer-urls http://127.0.0.1:12380 \
        --initial-advertise-peer-urls http://127.0.0.1:12380 \
        --initial-cluster default=http://127.0.0.1:12380
    openssl genrsa -out "$run/account.key" 2048 2>/dev/null
    token=$(openssl rand -hex 16)
    echo "$token,admin,admin,system:masters" >"$run/tokens.csv"
    cat >"$run/kubeconfig" <<C
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$address:16443", certificate-authority: $run/certificates/apiserver.crt}}]
users: [{name: u, user: {token: $token}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: colonnade}}]
current-context: x
C
    start apiserver "$LAB/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 \
        --secure-port=16443 --bind-address=0.0.0.0 --advertise-address=$address \
        --cert-dir="$run/certificates" --service-account-key-file="$run/account.key" \
        --service-account-signing-key-file="$run/account.key" \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-cluster-ip-range=$services.0/24 --token-auth-file="$run/tokens.csv" \
        --authorization-mode=RBAC --allow-privileged=true \
        --kubelet-preferred-address-types=InternalIP
    until_true kubectl get --raw /readyz
    start controllers "$LAB/bin/kube-controller-manager" --kubeconfig="$run/kubeconfig" \
        --service-account-private-key-file="$run/account.key" \
        --root-ca-file="$run/certificates/apiserver.crt" --leader-elect=false \
        --bind-address=127.0.0.1 --port=0 --use-service-account-credentials=false
    start scheduler "$LAB/bin/kube-scheduler" --kubeconfig="$run/kubeconfig" --leader-elect=false \
        --bind-address=127.0.0.1 --port=0
}

pause_image() {
    mkdir -p "$LAB/pause"
    cp /bin/busybox "$LAB/pause/sleep"
    printf 'FROM scratch\nCOPY sleep /sleep\nENTRYPOINT ["/sleep","2147483647"]\n' >"$LAB/pause/Dockerfile"
    local podman=(podman --root "$LAB/images" --runroot "$LAB/run/podman"
        --cgroup-manager=cgroupfs --events-backend=file --runtime=runc)
    "${podman[@]}" build --quiet --isolation=chroot --tag localhost/pause:1 "$LAB/pause" >/dev/null
    rm -f "$LAB/pause.tar"
    "${podman[@]}" save --quiet --format docker-archive --output "$LAB/pause.tar" localhost/pause:1
}

node() {
    mkdir -p "$run/cni"
    cat >"$run/cni/10-bridge.conflist" <<C
{"cniVersion":"0.4.0","name":"b","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":"$run/addresses","ranges":[[{"subnet":"10.78.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
C
    cat >"$run/containerd.toml" <<C
version = 2
root = "$run/containerd-root"
state = "$run/containerd-state"
[grpc]
  address = "$run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$run/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
C
    start containerd containerd --config "$run/containerd.toml"
    until_true containers version
    [ -f "$LAB/pause.tar" ] || pause_image
    containers images import --all-platforms "$LAB/pause.tar" >/dev/null
    containers images import --all-platforms "$LAB/colonnade.tar" >/dev/null
    echo "nameserver $address" >"$run/resolv.conf"
    cat >"$run/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
port: 10250
readOnlyPort: 0
healthzPort: 10248
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {nodefs.available: "1%", imagefs.available: "1%"}
resolvConf: $run/resolv.conf
clusterDNS: [$address]
clusterDomain: cluster.local
hairpinMode: none
C
    start kubelet "$LAB/bin/kubelet" --config="$run/kubelet.yaml" --kubeconfig="$run/kubeconfig" \
        --root-dir="$run/kubelet" --cert-dir="$run/kubelet/pki" --container-runtime=remote \
        --container-runtime-endpoint="unix://$run/containerd.sock" --hostname-override=n1 \
        --node-ip=$address
    start proxy "$LAB/bin/kube-proxy" --kubeconfig="$run/kubeconfig" --proxy-mode=iptables \
        --cluster-cidr=10.78.0.0/24 --hostname-override=n1 --conntrack-max-per-core=0 \
        --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
        --healthz-bind-address=127.0.0.1:10256
    start names "$PYTHON" "$here/names.py" "$address" "$run/kubeconfig"
    until_true kubectl wait --for=condition=Ready node/n1 --timeout=1s
}

operator() {
    local crds
    crds=$("$PYTHON" -c 'import dask_kubernetes, pathlib; print(pathlib.Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds")')
    kubectl apply --validate=false -f "$crds" >/dev/null
    start operator env KUBECONFIG="$run/kubeconfig" "$PYTHON" -m kopf run \
        -m dask_kubernetes.operator.controller --all-namespaces --standalone
}

down() {
    # Pods first, while there is who ends them
    if [ -S "$run/containerd.sock" ]; then
        # A socket may be all that a machine's restart has left
        { containers tasks ls -q 2>/dev/null || true; } | while read -r task; do
            containers tasks kill --signal 9 "$task" 2>/dev/null || true
        done
    fi
    for pid in $(ip netns pids $space 2>/dev/null); do
        kill -9 "$pid" 2>/dev/null || true
    done
    awk -v place="$run/" 'index($2, place) == 1 {print $2}' /proc/mounts | sort -r |
        xargs -r umount --lazy
    ip netns list | awk '/^cni-/{print $1}' | xargs -r -n1 ip netns del
    ip netns del $space 2>/dev/null || true
    rm -rf "$run"
}

case ${1:-} in
up)
    mkdir -p "$run"
    network
    control
    node
    operator
    kubectl get nodes
    ;;
down) down ;;
*)
    echo "usage: $0 up|down" >&2
    exit 2
    ;;
esac
