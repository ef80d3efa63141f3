"""`phoenix serve` without its gRPC server, which listens on every interface whatever PHOENIX_HOST says; traces come over HTTP.

Run by the Python of Phoenix's own environment, with -P: the modules beside this file are not its.
"""

from __future__ import annotations

import sys

from phoenix.server.grpc_server import GrpcServer
from phoenix.server.main import main


async def stay_closed(_server: GrpcServer) -> None:
    return None


if __name__ == "__main__":
    GrpcServer.__aenter__ = stay_closed
    sys.argv[1:] = ["serve"]
    main()
