"""Does anything grow? Two agents with real Envoys and all that goes on in a day, in minutes.

`world` is what happens, `record` what is written down of it, `series` the arithmetic, `report` the verdict
and its pages, `plots` the pictures.
"""
