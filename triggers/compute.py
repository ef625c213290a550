"""Where a training runs, by rule, and why: at the site whose data it takes, or in the cloud."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from triggers.config import Fleet, InstanceType, Loop, Needs, Site, duration

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`where` is empty where there is no place to train at all. At the edge, `site` is the one that trains."""

    where: Literal["cloud", "edge", ""]
    site: str = ""
    reason: str


def choose(sites: Sequence[str] | None, loop: Loop, fleet: Fleet) -> Choice:
    """The first rule that fits: what is configured, data that stays, data that only its site can read, data too large
    for its link, a cheaper site, the cloud. `sites` None means the whole fleet.

    A site trains on its own rows alone, so one site is chosen: the first with room. Where the cloud trains, rows of
    sites whose data stays are left out.
    """
    concerned = [s for s in fleet.sites if sites is None or s.name in sites]
    staying = [s for s in concerned if s.data == "stays"]
    configured = loop.training.compute
    if configured == "edge":
        return _at_a_site(concerned, loop, "as configured")
    if configured == "cloud" and len(staying) < len(concerned):
        return Choice(where="cloud", reason=f"compute cloud as configured{_without(staying)}")
    if staying and len(staying) == len(concerned):
        return _at_a_site(staying, loop, f"data of {_names(staying)} stays")
    if len(concerned) == 1 and concerned[0].dataset:
        why = _better_there(concerned[0], loop)
        there = _at_a_site(concerned, loop, why) if why else None
        if there is not None and (there.where or not concerned[0].dataset.startswith("azureml:")):
            return there
        if there is not None:
            return Choice(where="cloud", reason=f"compute cloud: {there.reason}")
    return Choice(where="cloud", reason=f"compute cloud{_without(staying)}")


def instance_type(site: Site, needs: Needs) -> InstanceType | None:
    """The smallest instance type of a site that has what is needed."""
    fitting = [t for t in site.instance_types if _within(needs.cpu, t.cpu) and _within(needs.memory, t.memory)]
    return min(fitting, key=lambda t: (amount(t.cpu), amount(t.memory), t.name), default=None)


def amount(quantity: str) -> float:
    """A Kubernetes quantity as a number; without one, more than any.

    >>> amount("500m"), amount("2Gi"), amount("")
    (0.5, 2147483648.0, inf)
    """
    found = re.fullmatch(r"([\d.]+)([A-Za-z]*)", quantity)
    return float(found[1]) * _UNITS[found[2]] if found else float("inf")


def _at_a_site(sites: Sequence[Site], loop: Loop, why: str) -> Choice:
    problems = []
    for site in sites:
        if problem := _no_place(site, loop):
            problems.append(problem)
        else:
            chosen = instance_type(site, loop.training.needs)
            on = f", {chosen.name}" if chosen else ""
            return Choice(where="edge", site=site.name, reason=f"compute edge at {site.name}{on}: {why}")
    return Choice(where="", reason=f"{why}, and {'; '.join(problems[:3])}")


def _no_place(site: Site, loop: Loop) -> str:
    if site.data == "stays" and not site.dataset:
        return f"{site.name} names no dataset to train on"
    if site.instance_types and instance_type(site, loop.training.needs) is None:
        needs = loop.training.needs
        wanted = " and ".join(filter(None, (needs.cpu and f"{needs.cpu} CPU", needs.memory)))
        return f"no instance type of {site.name} has {wanted}"
    return ""


def _better_there(site: Site, loop: Loop) -> str:
    """Why a site whose data may leave had better train itself; empty where nothing says so."""
    if not site.dataset.startswith("azureml:"):
        return f"only {site.name} can read {site.dataset}"
    if site.dataset_mb and site.link_kbps:
        hours = site.dataset_mb * 8e3 / site.link_kbps / 3600
        if hours * 3600 > duration(loop.training.send).total_seconds():
            size = f"{site.dataset_mb:,.0f} MB over {site.link_kbps:g} kbit/s"
            return f"{size} would take {hours:.1f} h, more than {loop.training.send}"
    cost = loop.training.cost
    if cost.edge is not None and cost.cloud is not None and cost.edge < cost.cloud:
        return f"{cost.edge:g} an hour instead of {cost.cloud:g} in the cloud"
    return ""


def _within(needed: str, has: str) -> bool:
    return not needed or amount(needed) <= amount(has)


def _without(staying: Sequence[Site]) -> str:
    return f", without {_names(staying)} whose data stays" if staying else ""


def _names(sites: Sequence[Site]) -> str:
    return ", ".join(s.name for s in sites)
