"""What the command `fieldmark` does without a server, and to measure one."""
