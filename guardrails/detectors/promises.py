"""What an assistant must not promise by itself, by kind: three labels of one cascade, for answers. It knows labels, not what a policy does about them."""

LABELS = ("refund", "legal", "medical")
