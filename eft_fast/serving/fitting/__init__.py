"""The direct fit without torch: the equations of ``map_fit`` and ``ops.map_reference`` in numpy.

A third form beside the torch oracle and the native operators, since neither runs where torch is not
installed; the tests hold it against the oracle after every solve. What the forms share without
torch is imported: ``map_rules``, ``map_fit.config``, ``keypoints``, ``imaging``.

``asset`` is the file, ``body`` the points and their slopes, ``energy`` what is minimised,
``solver`` minimises, ``search`` leaves the valley of the start, ``robust`` bears gross errors,
``posterior`` says how sure, ``fit`` runs them, ``record`` is what users get. Float64 throughout.

Nobody's numbers depend on who else is there, bitwise: people are a leading axis of elementwise
operations and of stacked products, which the library multiplies one by one. Sums need rows in C
order, which indexing columns by an array does not give: ``np.take`` does.
"""
