"""What pointing is: coordinates, the reply's grammar, the ray that is drawn, the reward and the metrics.

Imports numpy, Pillow and schemas only; no torch and no Ray, so that a reward process or a script can use it alone.
"""
