"""Birds drawn for fieldmark, so that there is a picture at hand: drawings, no photos; made of no other picture."""
