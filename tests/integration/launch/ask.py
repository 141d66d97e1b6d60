"""Prints a page of the service `pages` at an address: `python ask.py ADDRESS PORT CERTIFICATE`."""

import http.client
import socket
import ssl
import sys

address, port, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
with (
    socket.create_connection((address, int(port)), timeout=5) as raw,
    context.wrap_socket(raw, server_hostname="pages") as stream,
):
    connection = http.client.HTTPConnection("pages")
    connection.sock = stream
    connection.request("GET", "/")
    sys.stdout.write(connection.getresponse().read().decode())
