"""``python -m sandbox --port P``: the sandbox as its own process.

Prints one line when it is ready and ends on SIGTERM and SIGINT. Binds to loopback unless `--host` says otherwise,
because its keys are public and its control API has no authentication.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import ssl
import sys
from pathlib import Path

from sandbox.gateway import Gateway
from sandbox.server import Server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="A local AWS ECR that enforces permissions.")
    parser.add_argument("--port", type=int, required=True, help="0 picks a free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--allow-any-bind", action="store_true", help="listen beyond loopback: anybody may then come in"
    )
    parser.add_argument(
        "--tls", type=Path, metavar="FOLDER", help="TLS with a new certificate; FOLDER/ca.crt is its authority's"
    )
    parser.add_argument(
        "--tls-name", action="append", default=[], metavar="NAME", help="one more host name for the certificate"
    )
    parser.add_argument("--stop-with-stdin", action="store_true", help="end when standard input ends")
    return parser.parse_args()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(arguments: argparse.Namespace, tls: ssl.SSLContext | None) -> None:
    host = arguments.host
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.stop_with_stdin:  # the starting process has ended, also if it was killed, so the sandbox ends too
        loop.add_reader(sys.stdin.fileno(), _stop_at_end, stop)
    gateway = Gateway()
    server = Server(gateway.handle, gateway.limit, tls)
    port = await server.start(host, arguments.port)
    name = f"[{host}]" if ":" in host else host
    print(f"sandbox ready at {'https' if tls else 'http'}://{name}:{port}", flush=True)
    if tls:
        print(f"the certificate of its authority is {arguments.tls.resolve() / 'ca.crt'}", flush=True)
    await stop.wait()
    await server.close()


def _stop_at_end(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        stop.set()
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def main() -> int:
    arguments = _arguments()
    if not arguments.allow_any_bind and not _is_loopback(arguments.host):
        print(
            f"sandbox: {arguments.host} is not a loopback address; --allow-any-bind binds it all the same",
            file=sys.stderr,
        )
        return 2
    tls = None
    if arguments.tls is not None:
        from sandbox.certificate import serve_with_new_certificate  # takes time to import

        names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), arguments.host, *arguments.tls_name]
        try:
            tls = serve_with_new_certificate(arguments.tls, dict.fromkeys(names))
        except OSError as error:
            print(f"sandbox: cannot write {arguments.tls / 'ca.crt'}: {error}", file=sys.stderr)
            return 1
    try:
        asyncio.run(_serve(arguments, tls))
    except OSError as error:
        print(f"sandbox: cannot listen on {arguments.host}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
