"""Traces of requests; imported only where they are on."""
