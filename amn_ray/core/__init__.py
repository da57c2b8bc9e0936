"""Shared by all other units: errors, checks, settings, events, the store and its tables. Imports no other unit."""
