"""File formats of fits and labels, one module per format: ``save_x`` writes, ``load_x`` reads.

What a format calls a thing is known here and nowhere else. Arrays go in and come out under the
names of this package.
"""
