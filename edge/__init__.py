"""What runs at a site: verifies a candidate, serves it, sends telemetry, buffers while offline."""
