"""Source → image table: every image checked once, before anything is trained."""
