"""CRF: maps → refined seeds, by dense CRF at two thresholds (method 3 and 6)."""
