"""Which executor a site has: the one that fleet.yaml names."""

from __future__ import annotations

from triggers.errors import NotFound, Refused
from triggers.ports import Change, Configs, Executor, Underway


class Executors:
    """Port Executor: hands a change on to the executor of its site."""

    def __init__(self, configs: Configs, **by_name: Executor) -> None:
        self._configs, self._by_name = configs, by_name

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        return self._of(change).apply(change, proven)

    def finish(self, change: Change) -> None:
        self._of(change).finish(change)

    def _of(self, change: Change) -> Executor:
        site = self._configs.fleet(change.loop).site(change.site)
        if site is None:
            raise NotFound(f"the fleet of {change.loop} has no site {change.site}", site=change.site)
        if site.executor not in self._by_name:
            raise Refused(f"sites of executor {site.executor} cannot be reached from here", site=site.name)
        return self._by_name[site.executor]
