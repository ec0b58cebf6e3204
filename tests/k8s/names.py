"""Names of a cluster's services, told over DNS: what CoreDNS does, as far as a Dask cluster asks.

python names.py ADDRESS KUBECONFIG
"""

from __future__ import annotations

import socketserver
import struct
import sys

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException


def address(name: str) -> str | None:
    """The address of service.namespace.svc.cluster.local; None for anything else."""
    service, _, rest = name.partition(".")
    namespace, _, domain = rest.partition(".")
    if domain not in ("svc.cluster.local", "svc"):
        return None
    try:
        found = client.CoreV1Api().read_namespaced_service(service, namespace)
    except ApiException:
        return None
    return str(found.spec.cluster_ip)


class Answer(socketserver.BaseRequestHandler):
    """One question, one answer: A records, and nothing else."""

    def handle(self) -> None:
        data, sock = self.request
        labels, place = [], 12
        while length := data[place]:
            labels.append(data[place + 1 : place + 1 + length].decode().lower())
            place += length + 1
        question = data[12 : place + 5]
        found = address(".".join(labels))
        wanted = struct.unpack(">H", data[place + 1 : place + 3])[0] == 1
        answer = b""
        if found is not None and wanted:
            octets = bytes(map(int, found.split(".")))
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + octets
        flags = 0x8580 if found is not None else 0x8583
        head = data[:2] + struct.pack(">HHHHH", flags, 1, bool(answer), 0, 0)
        sock.sendto(head + question + answer, self.client_address)


if __name__ == "__main__":
    config.load_kube_config(sys.argv[2])
    with socketserver.ThreadingUDPServer((sys.argv[1], 53), Answer) as server:
        server.serve_forever()
