"""The audit chain: whatever is deleted, edited, reordered or cut off is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.database import Database
from adapters.local.store import SqliteStore
from tests.triggers.samples import HOUR, NOW, replace
from triggers import codec
from triggers.records import AuditEntry, LoopUnit, chain, verify


def a_chain(length: int) -> tuple[list[AuditEntry], tuple[int, str]]:
    entries: list[AuditEntry] = []
    for seq in range(1, length + 1):
        previous = entries[-1].hash if entries else ""
        at = NOW + seq * HOUR
        entry = AuditEntry(seq=seq, at=at, kind="held", subject="line", actor="ann", text=f"t{seq}", previous=previous)
        entries.append(replace(entry, hash=chain(entry)))
    return entries, (length, entries[-1].hash if entries else "")


ENTRIES, HEAD = a_chain(6)
places = st.integers(0, 5)


def test_a_chain_as_it_was_written_holds() -> None:
    assert verify(ENTRIES, HEAD) == ""
    assert verify([], (0, "")) == ""


@given(places)
def test_a_deleted_entry_is_found(n: int) -> None:
    assert verify(ENTRIES[:n] + ENTRIES[n + 1 :], HEAD)


@given(places, st.sampled_from(["at", "kind", "subject", "actor", "text", "data", "previous", "hash"]), st.booleans())
def test_an_edited_entry_is_found_also_where_its_own_hash_was_made_anew(n: int, field: str, forged: bool) -> None:
    other = {"at": NOW, "data": {"by": "eve"}}.get(field, "else")
    edited = replace(ENTRIES[n], **{field: other})
    if forged and field != "hash":
        edited = replace(edited, hash=chain(edited))
    assert verify([*ENTRIES[:n], edited, *ENTRIES[n + 1 :]], HEAD)


@given(places, places)
def test_reordered_entries_are_found_also_where_they_were_numbered_anew(a: int, b: int) -> None:
    moved = list(ENTRIES)
    moved[a], moved[b] = moved[b], moved[a]
    assert bool(verify(moved, HEAD)) is (a != b)
    renumbered = [replace(entry, seq=seq) for seq, entry in enumerate(moved, 1)]
    assert bool(verify(renumbered, HEAD)) is (a != b)


@pytest.mark.parametrize("left", range(6))
def test_an_end_that_was_cut_off_is_found_by_the_head(left: int) -> None:
    assert verify(ENTRIES[:left]) == ""
    words = f"the chain ends with entry {left}, not with entry 6 as the head says"
    assert verify(ENTRIES[:left], HEAD) == words


@pytest.mark.attack
@pytest.mark.parametrize("left", range(6))
def test_an_end_that_was_cut_off_with_its_head_is_found_by_an_anchor(left: int) -> None:
    cut, head = ENTRIES[:left], (left, ENTRIES[left - 1].hash if left else "")
    anchors = [(2, ENTRIES[1].hash), (6, ENTRIES[5].hash)]
    assert verify(cut, head) == "", "without its defence, the anchors, the attack succeeds"
    assert verify(cut, head, anchors) == f"entry 6 was anchored and is not there: the chain ends with entry {left}"


@pytest.mark.attack
def test_a_chain_that_was_written_anew_is_found_by_an_anchor() -> None:
    forged = written_anew(ENTRIES)
    head = (6, forged[-1].hash)
    assert verify(forged, head) == "", "without its defence, the anchors, the attack succeeds"
    assert verify(forged, head, [(4, ENTRIES[3].hash)]) == "entry 4 is not the one that was anchored"


def written_anew(entries: list[AuditEntry], kept: int = 0) -> list[AuditEntry]:
    """The same trail, forged after the first `kept` entries."""
    forged = list(entries[:kept])
    for entry in entries[kept:]:
        link = replace(entry, text="nothing happened", previous=forged[-1].hash if forged else "")
        forged.append(replace(link, hash=chain(link)))
    return forged


@pytest.mark.attack
def test_an_end_that_was_written_anew_is_found_although_a_later_check_has_anchored_it() -> None:
    forged = written_anew(ENTRIES, 5)
    true, untrue = (6, ENTRIES[5].hash), (6, forged[5].hash)
    words = "entry 6 was anchored twice, differently"
    assert verify(forged, untrue, [untrue]) == "", "without its defence, the first anchor, the attack succeeds"
    for anchors in ([true, untrue], [untrue, true]):
        assert verify(forged, untrue, anchors) == words
        assert verify(ENTRIES, true, anchors) == words


def test_what_is_wrong_is_said_at_the_first_broken_link() -> None:
    assert verify(ENTRIES[1:], HEAD) == "entry 1 is not there, but 2"
    assert verify([ENTRIES[0], replace(ENTRIES[1], text="else")]) == "entry 2 is not what was written"
    assert verify([ENTRIES[0], replace(ENTRIES[1], previous="else")]) == "entry 2 does not follow entry 1"


def test_the_hashes_hold_after_the_store_and_the_codec(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    try:
        store = SqliteStore(database)
        for n in range(3):
            unit = LoopUnit(store, "line", NOW + n * HOUR)
            unit.note("answered", "line.1", "approve by ann", "ann", share=0.1, at=NOW, sites=("a", "b"), none=None)
            unit.note("frozen", "line", "ümlaut \u2028", "bob", number=1.0, nested={"b": [1, 2.5], "a": True})
            unit.commit()
        entries = [codec.decode(r.value, AuditEntry) for r in store.scan("line", "audit/")]
        assert len(entries) == 6
        head = LoopUnit(store, "line", NOW).head
        assert verify(entries, (head.audit, head.audit_hash)) == ""
    finally:
        database.close()
