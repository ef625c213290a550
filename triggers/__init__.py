"""What is chosen: decisions, gates, approvals, rollout, and the table by which a run moves."""
