"""The ground that everything stands on: errors, folders, artifacts, tables, the console. Imports nothing of ours."""
