"""What `fieldmark-train` prints: results on the standard output, words on the standard error."""

import json
import sys
from typing import Any


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout, for a program or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        sys.stdout.write(f"{name:<{width}}  {f'{value:.5g}' if isinstance(value, float) else value}\n")


def say(text: str) -> None:
    """Print a line for people, beside the result."""
    sys.stderr.write(text + "\n")
