"""A candidate's share of live calls: two arms beside each other, the steps of a rollout, and the command."""
