"""What a COCO file says about its categories: who is a person, and the order of the keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from eft_fast.data.joint_names import NamedOrder, find_order
from eft_fast.data.values import shown, to_key
from eft_fast.keypoints import NO_JOINT, JointSet, to_body_set

Entry: TypeAlias = dict[str, Any]

#: Orders of files that name none, by the number of keypoints.
BY_COUNT: Final = {
    17: "coco17",
    23: "coco23",
    26: "halpe26",
    133: "wholebody133",
    136: "halpe136",
}


@dataclass(frozen=True)
class Order:
    """The order of the keypoints of a category.

    Attributes:
        counts: Numbers of keypoints that it may have.
        named: How they go into a joint set; None: that is told by their number, or cannot be.
        fault: Why the people of the category cannot be read.
        note: What is odd about people of it.
    """

    counts: tuple[int, ...]
    named: NamedOrder | None = None
    fault: str | None = None
    note: str | None = None

    def with_note(self, note: str) -> Order:
        """The same, with a note about each of its people."""
        return Order(self.counts, self.named, self.fault, note)

    def apply(self, given: np.ndarray) -> tuple[np.ndarray, JointSet, np.ndarray]:
        """Keypoints of the file in the order of a joint set of a body, the set, and the others."""
        named = self.named
        if named is None or (named.joint_set == "coco17" and len(given) > len(named.places)):
            body = to_body_set(BY_COUNT[len(given)])
            return given[: len(body)], body, given[len(body) :]
        points, body = named.apply(given), to_body_set(named.joint_set)
        rest = given[np.array(named.places) == NO_JOINT]
        return points[: len(body)], body, rest if len(rest) else points[len(body) :]


class Categories:
    """The categories of a file.

    Attributes:
        notes: What holds for the file as a whole, a sentence each.
    """

    def __init__(
        self, listed: Any, asked: JointSet | None, who: str, usual: JointSet | None = None
    ) -> None:
        """Take the list as the file has it, and the joint set that the user named.

        ``usual`` is the order of people of a category without names; None: told by their number.
        """
        self.notes: list[str] = []
        self._who = who
        self._entries: dict[str, Entry] = {}
        for entry in listed if isinstance(listed, list) else []:
            key = to_key(entry.get("id")) if isinstance(entry, dict) else None
            if key is not None:
                self._entries.setdefault(key, entry)
        people = [key for key, entry in self._entries.items() if entry.get("name") == "person"]
        self._people = set(people)
        #: The one category that people without a known one can have.
        self._only = people[0] if len(people) == 1 else None
        if not people and len(self._entries) == 1:
            self._only = next(iter(self._entries))
        self._asked = None if asked is None else _identity(asked)
        by_count = Order(tuple(BY_COUNT)) if usual is None else _identity(usual)
        self._orders: dict[str | None, Order] = {None: self._asked or by_count}

    def is_other(self, entry: Entry) -> bool:
        """Whether an annotation is of a category that is no person's."""
        key = to_key(entry.get("category_id"))
        return bool(self._people) and key in self._entries and key not in self._people

    def order(self, entry: Entry) -> Order:
        """The order of an annotation's keypoints."""
        given = entry.get("category_id")
        key = to_key(given)
        if key in self._entries or not self._entries:
            return self._order_of(key if key in self._entries else None)
        if self._only is None:
            return Order((), fault=f"has the category_id {shown(given)}, which is not listed")
        if given is None:
            return self._order_of(self._only)
        name = shown(self._entries[self._only].get("name"))
        note = f"has the category_id {shown(given)}, which is not listed; it was taken for {name}"
        return self._order_of(self._only).with_note(note)

    def _order_of(self, key: str | None) -> Order:
        if key not in self._orders:
            self._orders[key] = self._read_names(self._entries[str(key)])
        return self._orders[key]

    def _read_names(self, category: Entry) -> Order:
        names, label = category.get("keypoints"), shown(category.get("name"))
        if names in (None, []):
            return self._orders[None]
        if not isinstance(names, list):
            fault = f"has a category, {label}, whose keypoints are no list of names"
            return self._asked or Order((), fault=fault)
        try:
            named = find_order(names)
        except ValueError as error:
            return self._asked or Order((), fault=f"has the category {label}: {error}")
        if self._asked is not None and self._asked.named is not None:
            if self._asked.named != named:
                self.notes.append(
                    f"{self._who}: the keypoints of category {label} are named as those of "
                    f"{named.joint_set}; they were read as {self._asked.named.joint_set}, as asked"
                )
            return self._asked
        if named.is_reordered:
            self.notes.append(
                f"{self._who}: the keypoints of category {label} stand in another order than those "
                f"of {named.joint_set}, and were reordered by their names"
            )
        return _with_more_behind(named, len(names))


def _identity(order: JointSet) -> Order:
    return _with_more_behind(NamedOrder(order.name, tuple(range(len(order)))), len(order))


def _with_more_behind(named: NamedOrder, count: int) -> Order:
    """The order; COCO's 17 may have the foot points, or all of WholeBody's, behind them."""
    is_coco = named.joint_set == "coco17" and not named.is_reordered and count == 17
    return Order((17, 23, 133) if is_coco else (count,), named)
