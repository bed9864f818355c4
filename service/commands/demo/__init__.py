"""`fieldmark demo`: what a model sees in the drawn plates, or in the user's own photos, in pictures and in words."""
