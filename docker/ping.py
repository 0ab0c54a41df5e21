"""The image's health check: ends with 0 when the server takes work. The image has no curl."""

import http.client
import os
import sys

port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
try:
    connection.request("GET", "/ping")
    sys.exit(connection.getresponse().status != http.client.OK)
except OSError as error:
    sys.exit(f"no answer on port {port}: {error}")
