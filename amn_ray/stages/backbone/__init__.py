"""Initial weights, checked and put into the store, where every worker can read them."""
