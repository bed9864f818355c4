"""Exit 0 when the service in this container is ready to answer, for the image's HEALTHCHECK; it has no curl."""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["FIELDMARK_PORT"]), timeout=2)
try:
    connection.request("GET", "/readyz")
    status = connection.getresponse().status
except OSError as problem:
    sys.exit(f"not answering: {problem}")
sys.exit(0 if status == 200 else f"/readyz answered {status}")
