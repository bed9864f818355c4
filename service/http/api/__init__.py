"""What clients send and get, and the OpenAPI document about it."""
