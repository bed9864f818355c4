"""The service over HTTP: the one room that knows scope, headers and status codes."""
