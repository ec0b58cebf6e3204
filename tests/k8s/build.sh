#!/usr/bin/env bash
# Kubernetes from Debian's own source, and what a node needs beside it, into $LAB: some four minutes
# of both cores. Debian 12, as root.
set -euo pipefail
LAB=${LAB:-/var/tmp/colonnade-kubernetes}
mkdir -p "$LAB"/{bin,parts,lists/partial}
cd "$LAB"

DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq \
    --no-install-recommends golang-go etcd-server dpkg-dev rsync jq \
    golang-github-modern-go-reflect2-dev containerd runc conntrack iptables \
    containernetworking-plugins podman buildah debootstrap busybox-static iproute2 openssl curl \
    >apt.log 2>&1

if [ ! -x bin/kube-proxy ]; then
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >parts/src.sources
    apt=(apt-get -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$LAB/parts"
        -o "Dir::State::lists=$LAB/lists" -qq)
    "${apt[@]}" update
    "${apt[@]}" source --download-only kubernetes 2>/dev/null
    rm -rf src && dpkg-source -x kubernetes_*.dsc src >/dev/null
    cd src
    # Go 1.18 and later need reflect2 1.0.2: with the 1.0.1 that lies there the apiserver crashes
    reflect2=vendor/github.com/modern-go/reflect2
    rm -rf "$reflect2" && cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 "$reflect2"
    mkdir -p .go/src/k8s.io && ln -sfn ../../.. .go/src/k8s.io/kubernetes
    export GOPATH=$PWD/.go CGO_ENABLED=0 HOME=$LAB GOCACHE=$LAB/gocache GOFLAGS=
    export KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_COMMIT=deb
    export KUBE_GIT_TREE_STATE=clean
    make WHAT="cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler cmd/kubelet cmd/kube-proxy cmd/kubectl" >../build.log 2>&1
    cp _output/local/bin/linux/amd64/kube* ../bin/
    cd .. && chmod -R u+w src gocache && rm -rf src gocache
fi
ls bin
