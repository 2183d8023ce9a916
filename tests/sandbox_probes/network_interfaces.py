"""Have a network beside the loopback."""

import socket

from probe import tell

tell(lambda: [name for _, name in socket.if_nameindex() if name.startswith(("eth", "ens"))])
