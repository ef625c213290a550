"""The local profile: everything the app needs on one machine, durable, with nothing but Python."""
