"""The one decoder: a photo's bytes → a bounded, upright, colour-managed RGB image, as a browser shows it.

Training, evaluation and the service all call it, so that a network is judged by the pixels it will be served. Free of
torch, and of both floors above.
"""
