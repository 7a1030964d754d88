"""Container health check: `python -m segue_server.health_check [ADDRESS]`.

ADDRESS is HOST:PORT of gRPC, or http://HOST:PORT/health of the metrics port, which answers even if no more gRPC
connections are accepted.

Exit status 0: the server is serving; 1: it is not, or does not answer. Proxies, which engines put into the
environment of containers, are not used: the server is on this machine.
"""

import sys
import urllib.request
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
_TIMEOUT_SECONDS: Final = 2.0
_WITHOUT_PROXY: Final = (("grpc.enable_http_proxy", 0),)


def main(address: str) -> int:
    """Ask the server at `address` once; return the exit status."""
    return _ask_http(address) if address.startswith("http://") else _ask_grpc(address)


def _ask_http(url: str) -> int:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=_TIMEOUT_SECONDS):
            return 0
    except OSError as error:  # also of any status but success
        sys.stderr.write(f"{url}: {error}\n")
        return 1


def _ask_grpc(address: str) -> int:
    with grpc.insecure_channel(address, options=_WITHOUT_PROXY) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            response = health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            sys.stderr.write(f"{address} does not answer: {error.details()}\n")
            return 1
    if response.status == health_pb2.HealthCheckResponse.SERVING:
        return 0
    sys.stderr.write(f"{address} is not serving: it starts or stops\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else _DEFAULT_ADDRESS))
