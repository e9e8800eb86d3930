"""The direct fit: the body that is most probable given the keypoints and the network's answer.

``fit`` runs it, ``problem`` holds what it minimises, ``hypotheses`` leaves the valley of the start,
``robust`` bears gross errors and swapped arms, ``posterior`` says how sure the fit is, ``fill``
adds the network's own landmarks, ``fitter`` plugs it into a run. Import from these modules.
"""
