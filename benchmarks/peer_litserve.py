"""LitServe with a worker process a core, each with one thread: its own way to use a CPU.

python benchmarks/peer_litserve.py PORT MODEL
"""

import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request
from peer_work import Work

from service.inference.cpus import usable_cores


class Classify(litserve.LitAPI):
    """The same work, in LitServe's four steps."""

    def setup(self, device: str) -> None:
        """Load the model once a worker."""
        self.work = Work(Path(sys.argv[2]))

    def decode_request(self, request: Request) -> bytes:
        """Take the photo out of the form."""
        form: Any = request  # LitServe passes the parsed form, despite the annotation
        data: bytes = form["file"].file.read()
        return data

    def predict(self, data: bytes) -> dict[str, Any]:
        """Answer one photo."""
        return self.work(data)

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the answer unchanged."""
        return answer


if __name__ == "__main__":
    server = litserve.LitServer(
        Classify(api_path="/classify"), accelerator="cpu", workers_per_device=usable_cores(), healthcheck_path="/readyz"
    )
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="error", access_log=False)
