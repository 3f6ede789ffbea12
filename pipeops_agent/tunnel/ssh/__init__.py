"""SSH as chisel speaks it: packets, transport, authentication, connection. Bytes in, events out."""
