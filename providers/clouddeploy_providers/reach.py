"""How a machine is reached and recognised that was not made here: its deploy file has to say it."""

from __future__ import annotations

import re

REACHED = ("user", "identity_file", "host_key")
"""Settings without which such a machine could not be reached or recognised; they mean the same at every provider."""
HOST_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}|(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,2}( .*)?")
"""A fingerprint as ssh-keygen prints it, or a public key line."""
HOST_KEY_HINT = "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine prints `SHA256:…`"
