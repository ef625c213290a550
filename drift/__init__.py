"""What can be computed about the world: pure, numpy only, no clock, no disk, no network."""
