"""Source → image table: every image is checked once, before anything is trained."""
