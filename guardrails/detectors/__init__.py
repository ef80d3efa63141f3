"""What finds personal data and unwanted content in a text. Finding is not changing: nothing here rewrites."""
