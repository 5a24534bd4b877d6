"""What the table shows of peers, and how that was shown."""

NOTES: list[str] = []
