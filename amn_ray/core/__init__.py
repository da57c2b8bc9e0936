"""What all other units use: errors, checks, settings, events, the store and its tables. Imports no other unit."""
