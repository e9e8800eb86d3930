"""Runs over whole datasets: people in shards, by processes of this machine or by Ray, resumable.

``plan`` cuts the people of a dataset into shards and names them, ``setup`` says how they are
fitted, ``work`` fits a piece of a shard, ``local`` and ``on_ray`` spread pieces over processes, and
``assemble`` makes one file of fits of all shards. Whatever is killed, and whenever: a file is there
whole or not at all, and what is missing is fitted when the run goes on.
"""

from __future__ import annotations
