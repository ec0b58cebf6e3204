#!/usr/bin/env bash
# deploy/docker's image without a Docker daemon and without a registry: its base is made from Debian's
# packages and a Python 3.13 of pyenv. Says its size, and leaves it as $LAB/colonnade.tar.
set -euo pipefail
LAB=${LAB:-/var/tmp/colonnade-kubernetes}
repository=$(realpath "$(dirname "$0")/../..")
podman() {
    command podman --root "$LAB/images" --runroot "$LAB/run/podman" --cgroup-manager=cgroupfs \
        --events-backend=file --runtime=runc "$@"
}
mkdir -p "$LAB/run"
cd "$LAB"

if ! podman image exists localhost/python:3.13-slim-bookworm; then
    mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    rm -rf rootfs
    # Debian's packages; the same as in Docker's python:3.13-slim-bookworm
    debootstrap --variant=minbase \
        --include=ca-certificates,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g \
        bookworm rootfs "$mirror" >debootstrap.log
    python=$(printf '%s\n' "$(pyenv root)"/versions/3.13* | tail -n 1)
    rm -rf rootfs/var/cache/apt/archives/*.deb rootfs/var/lib/apt/lists/*
    cp -a "$python"/{bin,lib} rootfs/usr/local/
    rm -rf rootfs/usr/local/lib/python3.13/{test,config-*,site-packages/*}
    rm -rf rootfs/usr/local/lib/*.a rootfs/usr/share/{doc,locale,man}
    chroot rootfs ldconfig
    chroot rootfs /usr/local/bin/python3.13 -m ensurepip >/dev/null
    tar -C rootfs -c . | podman import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        - localhost/python:3.13-slim-bookworm >/dev/null
    rm -rf rootfs
fi

# pip's own settings and certificates are this machine's; the image gets neither
settings=()
for place in /etc/pip.conf "${PIP_CERT:-}"; do
    [ -e "$place" ] && settings+=(--volume "$place:$place:ro")
done
podman build --isolation=chroot --network=host "${settings[@]}" \
    --build-arg BASE=localhost/python:3.13-slim-bookworm \
    --file "$repository/deploy/docker/Dockerfile" \
    --ignorefile "$repository/deploy/docker/Dockerfile.dockerignore" \
    --tag localhost/colonnade:test "$repository"
podman image inspect --format '{{.Size}}' localhost/colonnade:test |
    awk '{printf "image: %.0f MB\n", $1 / 1e6}'
# Debian's Kubernetes is older than what dask-kubernetes' client supports, by a field that it leaves
# empty; with it filled in, all that is asked of either is there
podman build --quiet --isolation=chroot --tag localhost/colonnade:node - >/dev/null <<'D'
FROM localhost/colonnade:test
USER root
RUN sed -i "s/{resource\['singularName'\]}/{resource['singularName'] or resource['kind'].lower()}/" \
    /opt/colonnade/lib/python3.13/site-packages/kr8s/_api.py
USER 10001:10001
D
rm -f colonnade.tar
podman save --quiet --format docker-archive --output colonnade.tar localhost/colonnade:node
