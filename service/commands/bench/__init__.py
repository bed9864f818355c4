"""`fieldmark bench`: measures a server."""
