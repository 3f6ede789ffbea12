"""The chisel tunnel: remotes, carrier, SSH, forwarding, session, machine, manager."""
