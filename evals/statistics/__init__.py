"""The numbers behind a verdict: numpy and scipy only, no file, no clock, no randomness that was not handed in."""
