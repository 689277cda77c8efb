"""The only importers of client libraries. Each wraps one, and lets none of its exceptions or logs through."""
