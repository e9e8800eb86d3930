"""From a ``Sample`` to a ``FitResult``, whatever the method: prepare, fit, collect.

``fitter`` is the contract that every method implements; ``dispatch`` alone knows the methods. The
methods may import ``fitter`` and ``predict``; callers import ``run`` and ``dispatch``.
"""
