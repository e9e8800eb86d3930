"""The direct fit inside an exported model: ``map_fit`` as ONNX operators.

A fourth form beside torch's, the native one and numpy's (``serving.fitting``), whose formulas and
stages it follows one by one, written for few operators: on systems of 85 unknowns a runtime's time
goes by the number of nodes. Everything is single precision. ``solver`` has the loop and the linear
systems, ``graph`` puts it behind a network; docs/deployment.md says how near it is to ``map``.
"""
