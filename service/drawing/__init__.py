"""Maps to pictures: arrays in, bytes out; no settings and no requests in here."""
