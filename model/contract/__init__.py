"""What the exporter writes and the service reads: the manifest, and the geometry it implies. Free of torch."""
