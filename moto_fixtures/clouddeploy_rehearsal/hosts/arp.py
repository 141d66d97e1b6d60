"""Tells everybody on the bridge which machine owns an address now, as a cloud's network does when one moves.

Without it an address that goes from one machine to another stays unreachable until every neighbour has forgotten the
old owner, which takes up to a minute.

Source:
    RFC 5227 §3, ARP announcements
"""

from __future__ import annotations

import socket
import struct
import subprocess

from clouddeploy_rehearsal.isolation import BRIDGE

ETHERNET, IPV4, REQUEST = 1, 0x0800, 1
ARP = 0x0806
EVERYBODY = b"\xff" * 6


def announce(address: str, hardware: str) -> None:
    """Announces that `address` is at `hardware` (`02:00:…`) to the hosts, and to this process's own table."""
    subprocess.run(["ip", "neigh", "flush", "to", address, "dev", BRIDGE], check=True, capture_output=True)
    owner, ip = bytes.fromhex(hardware.replace(":", "")), socket.inet_aton(address)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((BRIDGE, ARP))
        frame = EVERYBODY + link.getsockname()[4] + struct.pack("!H", ARP)
        frame += struct.pack("!HHBBH", ETHERNET, IPV4, 6, 4, REQUEST) + owner + ip + bytes(6) + ip
        link.send(frame)
