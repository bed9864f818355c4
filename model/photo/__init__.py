"""The one decoder: a photo's bytes → a bounded, upright, colour-managed RGB image, as a browser shows it.

Training, evaluation and the service all call it, so that a network is evaluated on the pixels that it will be served.
It needs neither torch nor the packages above.
"""
