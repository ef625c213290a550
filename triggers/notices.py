"""Who is told what, and when: at once what cannot wait, the rest together, nothing twice, and always what to do.

A notice is a card: plain data with id, kind, loop, title, text, facts, link, and `do`, what whoever reads it can do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from triggers import approval, codec
from triggers.config import Notify, duration
from triggers.ports import Ports
from triggers.records import Unit, again

_STATE, _PENDING = "notices", "notice/"
_SHOWN = 20
"""So many of a digest are told one by one."""

DO: Mapping[str, str] = {
    "approval": "Open it, look at what is asked, and approve or reject it before it expires.",
    "began": "Nothing yet: you are asked when its candidate has passed the gates. Freeze the loop if it must not.",
    "drift": "Nothing, if what it waits for is right; else retrain by hand, or change the policy in loop.yaml.",
    "progress": "Nothing: watch the next wave, or pause the rollout.",
    "paused": "Look at the sites that are not verified; then resume the rollout, or take it back.",
    "maintenance": "Have somebody look at these sites: what is wrong there is no reason to train.",
    "certificate": "Have the cluster online before that day, so that it renews its connection.",
    "run-verified": "Nothing: every site serves it.",
    "run-rejected": "Nothing changes at the sites. See the evidence for why.",
    "run-rolled-back": "See what the sites said; the champion serves again. Look at the candidate before the next try.",
    "run-failed": "See why it failed and mend that; the champion goes on serving.",
    "run-expired": "Nobody answered in time. Retrain by hand if it is still wanted.",
    "run-cancelled": "Nothing: somebody stopped it.",
    "run-superseded": "Nothing: a newer run goes on.",
    "digest": "Open the dashboard: it says what wants you first.",
}


class Notices(msgspec.Struct, frozen=True, kw_only=True):
    """When people were last told anything, and of what, by what it was about."""

    last: datetime | None = None
    told: dict[str, datetime] = {}


def tell(ports: Ports, loop: str, card: Mapping[str, Any]) -> None:
    """At once, or with others later. Raises what the notifier raises; told again, it is the same card.

    What is urgent by loop.yaml is told at once, whatever the hour. Of the rest, what was told lately about the same
    thing is dropped; in quiet hours, and so soon after another, it waits for a digest.
    """
    rules, now = ports.configs.loop(loop).notify, ports.clock.now()
    whole = {"do": DO.get(str(card.get("kind")), DO["digest"]), **card}
    if card.get("kind") in rules.urgent:
        ports.notifier.tell(whole)
        return
    unit = Unit(ports.store, loop)
    state = unit.get(_STATE, Notices) or Notices()
    about = _about(whole)
    if about in state.told and now - state.told[about] < duration(rules.repeat):
        return
    if _waits(rules, state, now):
        again(lambda: _keep(ports, loop, about, whole))
        return
    ports.notifier.tell(whole)
    again(lambda: _note(ports, loop, rules, now, (about,)))


def flush(ports: Ports, loop: str) -> None:
    """Tell together what waited, when its time has come."""
    rules, now = ports.configs.loop(loop).notify, ports.clock.now()
    unit = Unit(ports.store, loop)
    state = unit.get(_STATE, Notices) or Notices()
    kept = list(ports.store.scan(loop, _PENDING, limit=90))
    if not kept or _waits(rules, state, now):
        return
    cards = [msgspec.json.decode(record.value) for record in kept]
    ports.notifier.tell(cards[0] if len(cards) == 1 else digest(loop, cards))

    def done() -> None:
        told = Unit(ports.store, loop)
        for record in kept:
            if told.raw(record.key) is not None:
                told.delete(record.key)
        told.commit()

    again(lambda: _note(ports, loop, rules, now, tuple(map(_about, cards))))
    again(done)


def digest(loop: str, cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Several cards as one."""
    lines = [f"{c['title'].removeprefix(f'{loop}: ')}: {plain(str(c.get('text', '')))[:300]}" for c in cards[:_SHOWN]]
    more = [f"and {len(cards) - _SHOWN} more"] if len(cards) > _SHOWN else []
    return {
        "id": f"digest/{loop}/{codec.short('|'.join(str(c.get('id')) for c in cards))}",
        "kind": "digest",
        "loop": loop,
        "title": f"{loop}: {len(cards)} things",
        "text": "\n".join([*lines, *more]),
        "do": "; ".join(dict.fromkeys(str(c["do"]).removesuffix(".") for c in cards[:_SHOWN])) + ".",
        "facts": {"kinds": sorted({str(c.get("kind")) for c in cards})},
        "link": "/api/ui/",
    }


def plain(reason: str) -> str:
    """A reason without the footnotes that it has in common with all others, and its numbers written out.

    >>> plain("drift at 3 of 3 sites: evidence 4.63e+04 >= 90 (not covered: 60 periods (correlation 0.5)); held: x")
    'drift at 3 of 3 sites: evidence 46,300, limit 90; held: x'
    """
    text = re.sub(r" ?\(not covered: [^()]*(?:\([^()]*\)[^()]*)*\)", "", reason)
    text = re.sub(r"\d(?:\.\d+)?e\+\d+", lambda found: f"{float(found[0]):,.0f}", text)
    return re.sub(r"evidence ([\d.,]+) >= ([\d.,]+)", r"evidence \1, limit \2", text)


def _about(card: Mapping[str, Any]) -> str:
    """What a card is about: two about the same are one, whatever their numbers."""
    facts = card.get("facts") or {}
    run, named = facts.get("run", ""), facts.get("sites") or facts.get("site", "")
    words = card.get("title") if run else "" if named else re.sub(r"[\d.,]+", "#", str(card.get("text", "")))
    return codec.short(f"{card.get('kind')}|{run}|{named}|{words}")


def _waits(rules: Notify, state: Notices, now: datetime) -> bool:
    lately = state.last is not None and now - state.last < duration(rules.every)
    return lately or approval.quiet(now, rules.quiet)


def _keep(ports: Ports, loop: str, about: str, card: Mapping[str, Any]) -> None:
    """One of a kind waits at a time."""
    unit = Unit(ports.store, loop)
    if unit.raw(key := f"{_PENDING}{about}") is None:
        unit.put(key, msgspec.json.encode(card))
        unit.commit()


def _note(ports: Ports, loop: str, rules: Notify, now: datetime, about: tuple[str, ...]) -> None:
    unit = Unit(ports.store, loop)
    state = unit.get(_STATE, Notices) or Notices()
    known = {k: at for k, at in state.told.items() if now - at < duration(rules.repeat)}
    unit.put(_STATE, Notices(last=now, told={**known, **dict.fromkeys(about, now)}))
    unit.commit()
