"""SMPLify: pose, shape and camera fitted directly, under a prior that knows nothing of the photo.

``config`` holds the published recipes as data, ``fit`` runs them; ``shared_shape``, ``multiview``
and ``spin`` build on it. Import from these modules.
"""
