"""Initial weights, checked and written to the store, where every worker can read them."""
