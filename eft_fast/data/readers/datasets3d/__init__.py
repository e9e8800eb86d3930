"""Datasets with truth in space, one module each: files in, people with 3D points or SMPL out.

Everything leaves in metres and in the frame of the photo's camera: x right, y down, z forward.
"""
