"""What talks to a service, a disk or a process."""
