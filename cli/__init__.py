"""The `driftloop` command, and the local host that drives the function app by its own triggers."""
