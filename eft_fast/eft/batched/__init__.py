"""Private weights for many people at once; every way here equals the loop of ``eft.loop``.

``slots`` and ``graph_slots`` stream people through a fixed number of places; the others hold the
weights, the optimiser and the layers of the kernels. ``pipeline.dispatch`` chooses among them.
"""
